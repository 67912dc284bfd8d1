"""Multi-head attention over tokens whose heads lie side by side."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

PLAIN_BELOW, FAST_FROM = 128, 192
"""Queries: below the first two plain products are fastest on a CPU, from the second on the fused kernel is."""


def multi_head_attention(query: Tensor, key: Tensor, value: Tensor, num_heads: int, scale: float) -> Tensor:
    """Attention of ``query`` [F, Q, C] over ``key`` and ``value`` [F, T, C]; returns [F, Q, C].

    With as many queries as keys this is the call Hugging Face makes under ``sdpa``, bit for bit.
    """
    query, key, value = (_split_heads(x, num_heads) for x in (query, key, value))
    is_selective = query.shape[-2] < key.shape[-2]
    attend = _few_on_cpu if is_selective and query.device.type == "cpu" else _fused
    return attend(query, key, value, scale).transpose(1, 2).flatten(2)


def weighted_attention(
    query: Tensor, key: Tensor, value: Tensor, weights: Tensor, num_heads: int, scale: float
) -> Tensor:
    """The same where key t counts ``weights`` [F, T] times, as if it stood there so often (ToMe, section 3)."""
    query, key, value = (_split_heads(x, num_heads) for x in (query, key, value))
    bias = weights.log().to(query.dtype)[:, None, None, :].expand(-1, -1, query.shape[-2], -1)
    mixed = scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)
    return mixed.transpose(1, 2).flatten(2)


def attention_weights(query: Tensor, key: Tensor, scale: float, weights: Tensor | None = None) -> Tensor:
    """Softmax [F, heads, Q, T] in float32 of ``query`` [F, Q, heads, d] on ``key`` [F, T, heads, d]; ``weights`` [F, T]
    as above."""
    logits = torch.matmul((query * scale).transpose(1, 2), key.permute(0, 2, 3, 1)).float()
    return (logits if weights is None else logits + weights.log()[:, None, None, :]).softmax(-1)


def _split_heads(x: Tensor, num_heads: int) -> Tensor:
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def _fused(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    return scaled_dot_product_attention(query, key, value, scale=scale)


def _few_on_cpu(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Around the CPU kernel's small blocks, which it takes below 192 queries and which cost 1.5 times as much."""
    num_queries = query.shape[-2]
    if num_queries < PLAIN_BELOW and query.dtype in (torch.float32, torch.float64):
        return torch.matmul(torch.matmul(query * scale, key.transpose(-1, -2)).softmax(-1), value)
    if PLAIN_BELOW <= num_queries < FAST_FROM:
        padded = pad(query, (0, 0, 0, FAST_FROM - num_queries))
        return _fused(padded, key, value, scale)[..., :num_queries, :]
    return _fused(query, key, value, scale)

"""Attention of new tokens to stored keys and values, with grouped heads, and the join of two parts in one softmax.

Shapes: queries [Hkv, G, T, d] (G query heads share a key head), keys and values [Hkv, L, d], additive masks
[T, L]. Groups are expressed by expanding keys with stride 0, so nothing is repeated in memory.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention


def grouped(queries: Tensor, num_kv_heads: int) -> Tensor:
    """[T, Hq, d] -> [Hkv, G, T, d]."""
    num_tokens, _, head_dim = queries.shape
    return queries.view(num_tokens, num_kv_heads, -1, head_dim).permute(1, 2, 0, 3)


def ungrouped(outputs: Tensor) -> Tensor:
    """[Hkv, G, T, d] -> [T, Hq * d]."""
    return outputs.permute(2, 0, 1, 3).reshape(outputs.shape[2], -1)


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Softmax attention -> [Hkv, G, T, d]; ``mask`` ``None``: every query sees every key."""
    keys, values = _expand(keys, queries), _expand(values, queries)
    return scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scale)


def attend_two_parts(
    queries: Tensor,
    local: tuple[Tensor, Tensor],
    local_mask: Tensor | None,
    far: tuple[Tensor, Tensor],
    far_mask: Tensor | None,
    scale: float,
    far_queries: Tensor,
) -> Tensor:
    """One softmax over two key sets that see differently rotated queries -> [Hkv, G, T, d].

    ``local`` may be long and goes through a fused kernel; ``far`` [Hkv, n, d] is short. A query whose
    ``far_mask`` hides every far key keeps its local output.
    """
    near, near_lse = attend_with_lse(queries, *local, local_mask, scale)
    far_keys, far_values = _expand(far[0], queries), _expand(far[1], queries)
    scores = (far_queries @ far_keys.transpose(-1, -2)).float() * scale
    if far_mask is not None:
        scores = scores + far_mask.float()
    # The whole local part competes as one key whose score is its log-sum-exp.
    weights = torch.cat((scores, near_lse.float()[..., None]), dim=-1).softmax(dim=-1).to(near.dtype)
    return torch.addcmul(weights[..., :-1] @ far_values, weights[..., -1:], near)


def attend_with_lse(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """As :func:`attend`, with the log-sum-exp of the scores [Hkv, G, T].

    The public function does not return it; the fused kernels behind it do. Other devices take the plain way.
    """
    kernel = _FUSED.get(queries.device.type, _plain)
    return kernel(queries, _expand(keys, queries), _expand(values, queries), mask, scale)


def _expand(states: Tensor, queries: Tensor) -> Tensor:
    return states[:, None].expand(-1, queries.shape[1], -1, -1)


def _plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    scores = (q @ k.transpose(-1, -2)).float() * scale
    if mask is not None:
        scores = scores + mask.float()
    return scores.softmax(dim=-1).to(v.dtype) @ v, scores.logsumexp(dim=-1)


def _cpu(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return kernel(q, k, v, 0.0, False, attn_mask=mask, scale=scale)


def _cuda(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    bias = None if mask is None else _aligned(mask).expand(*q.shape[:2], -1, -1)
    out, lse, *_ = kernel(q, k, v, bias, True, scale=scale)
    return out, lse[..., : q.shape[2]]


def _aligned(mask: Tensor) -> Tensor:
    """The kernel reads masks in rows that start at multiples of 16 elements."""
    columns = mask.shape[-1]
    return pad(mask, (0, -columns % 16))[..., :columns]


_FUSED = {"cpu": _cpu, "cuda": _cuda}

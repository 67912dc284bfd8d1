"""Attention of new tokens to stored keys and values, with grouped heads, and the join of several parts in one softmax.

Shapes: queries [Hkv, G, T, d] (G query heads share a key head), keys and values [Hkv, L, d], additive masks
[T, L]. Nothing is repeated in memory for the groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    if mask is None:
        folded = _folded(queries)[None]
        return scaled_dot_product_attention(folded, keys[None], values[None], scale=scale).view(queries.shape)
    keys, values = _expanded(keys, queries), _expanded(values, queries)
    return scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scale)


@dataclass(frozen=True)
class Part:
    """Keys and values [Hkv, n, d] with the queries that read them and an additive mask [T, n] or ``None``."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    mask: Tensor | None


def attend_parts(main: Part, others: Sequence[Part], scale: float) -> Tensor:
    """One softmax over several sets of keys -> [Hkv, G, T, d].

    ``main`` may be long and goes through a fused kernel; ``others`` are short and may see differently rotated
    queries. Every query must see a key of ``main``.
    """
    output, lse = attend_with_lse(main.queries, main.keys, main.values, main.mask, scale)
    scores = [_scores(part, scale) for part in others]
    # The whole main part competes as one key whose score is its log-sum-exp.
    weights = torch.cat((*scores, lse.float()[..., None]), dim=-1).softmax(dim=-1).to(output.dtype)
    result = output * weights[..., -1:]
    start = 0
    for part in others:
        stop = start + part.keys.shape[1]
        result += (_folded(weights[..., start:stop]) @ part.values).view(result.shape)
        start = stop
    return result


def attend_with_lse(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """As :func:`attend`, with the log-sum-exp of the scores [Hkv, G, T].

    The public function does not return it; the fused kernels behind it do. Other devices take the plain way.
    """
    kernel = _FUSED.get(queries.device.type, _plain)
    if mask is not None:
        return kernel(queries, _expanded(keys, queries), _expanded(values, queries), mask, scale)
    output, lse = kernel(_folded(queries)[None], keys[None], values[None], None, scale)
    return output.view(queries.shape), lse.view(queries.shape[:-1])


def _expanded(states: Tensor, queries: Tensor) -> Tensor:
    """Each key head once per query of its group, without copying: [Hkv, L, d] -> [Hkv, G, L, d]."""
    return states[:, None].expand(-1, queries.shape[1], -1, -1)


def _folded(queries: Tensor) -> Tensor:
    """The queries of a group as one long sequence: [Hkv, G, T, d] -> [Hkv, G * T, d]; faster, but for no mask."""
    return queries.flatten(1, 2)


def _scores(part: Part, scale: float) -> Tensor:
    """Scores [Hkv, G, T, n], float32."""
    scores = (_folded(part.queries) @ part.keys.transpose(-1, -2)).float().mul_(scale)
    scores = scores.view(*part.queries.shape[:-1], -1)
    return scores if part.mask is None else scores.add_(part.mask)


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

"""A Qwen2 text model on batches of embeddings with explicit positions, no memory and no padding mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers.models.qwen2.modeling_qwen2 import Qwen2Model, apply_rotary_pos_emb


def causal_hidden(model: Qwen2Model, x: Tensor, positions: Tensor | None = None) -> Tensor:
    """Final hidden states [B, T, D] of embeddings ``x`` [B, T, D] at ``positions`` [B, T] (0, 1, ... by default).

    Rows may be padded at their ends: no token sees what comes after it. Positions may have gaps (transformers would
    take those for the borders of packed texts).
    """
    if positions is None:
        positions = torch.arange(x.shape[1]).expand(x.shape[:2])
    rotary = model.rotary_emb(x, positions)
    for layer in model.layers:
        x = x + _attention(layer.self_attn, layer.input_layernorm(x), rotary)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return model.norm(x)


def last_states(model: Qwen2Model, rows: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
    """Hidden states of the last ``counts[i]`` tokens of each of ``rows`` [T_i, D], each read on its own."""
    hidden = causal_hidden(model, pad_sequence(list(rows), batch_first=True))
    return [states[len(row) - count : len(row)] for states, row, count in zip(hidden, rows, counts, strict=True)]


def heads_of(
    attention: nn.Module, x: Tensor, rotate: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [B, heads, T, d] of ``x`` [B, T, D], as many keys as queries; ``rotate``: of queries and
    keys."""
    shape = (*x.shape[:2], -1, attention.head_dim)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    query, key, value = (projection(x).view(shape).transpose(1, 2) for projection in projections)
    query, key = rotate(query, key)
    groups = attention.num_key_value_groups
    return query, key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)


def _attention(attention, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    query, key, value = heads_of(attention, x, partial(apply_rotary_pos_emb, cos=rotary[0], sin=rotary[1]))
    attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    return attention.o_proj(attended.transpose(1, 2).flatten(2))

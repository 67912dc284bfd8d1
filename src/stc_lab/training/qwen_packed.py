"""A stream and many questions about it in one pass of a Qwen-VL text model, with explicit three-axis positions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from stc_lab.language.attention import rotary_of
from stc_lab.training.causal import heads_of


def packed_hidden(
    model: nn.Module, x: Tensor, positions: Tensor, visible: Tensor, question: Tensor
) -> Iterator[Tensor]:
    """Hidden states [S, T, D] behind each layer in turn, computed as they are asked for; the last norm is left out.

    ``x`` [S, T, D]: P tokens of a stream, then the O tokens of its questions; ``positions`` [3, S, T]; ``question``
    [S, O]: which one a token belongs to; ``visible`` [S, O]: how many tokens of the stream it sees. Equal to a plain
    pass over ``stream[:visible] + question`` for each (tested).
    """
    rotation = _rotation(model, positions, x.dtype)
    num_prefix = x.shape[1] - question.shape[1]
    mask = _question_mask(visible, question, num_prefix)
    for layer in model.layers:
        x = x + _attention(layer.self_attn, layer.input_layernorm(x), rotation, mask, num_prefix)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
        yield x


def _rotation(model: nn.Module, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine [S, 1, T, d]."""
    turn = rotary_of(model.rotary_emb)(positions.flatten(1), dtype)
    return tuple(wave.view(*positions.shape[1:], -1)[:, None] for wave in (turn.cos, turn.signed_sin))


def _attention(attention: nn.Module, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor, p: int) -> Tensor:
    query, key, value = heads_of(attention, x, partial(_turned, *rotation))
    parts = [scaled_dot_product_attention(query[:, :, p:], key, value, attn_mask=mask)]
    if p:
        parts.insert(0, scaled_dot_product_attention(*(s[:, :, :p] for s in (query, key, value)), is_causal=True))
    return attention.o_proj(torch.cat(parts, dim=2).transpose(1, 2).flatten(2))


def _turned(cos: Tensor, signed_sin: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
    return tuple(states * cos + states.roll(states.shape[-1] // 2, -1) * signed_sin for states in parts)


def _question_mask(visible: Tensor, question: Tensor, num_prefix: int) -> Tensor:
    """Boolean mask [S, 1, O, P + O]: the visible prefix, then what came before in the own question."""
    sees = torch.arange(num_prefix) < visible[..., None]
    own = (question[..., None] == question[:, None]).tril()
    return torch.cat([sees, own], dim=-1)[:, None]

"""A text model on batches of embeddings with explicit positions: plain, or many questions on one stream in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from stc_lab.language.attention import rotary_of


def packed_states(
    model: nn.Module, x: Tensor, positions: Tensor, visible: Tensor, question: Tensor
) -> Iterator[Tensor]:
    """Hidden states [S, T, D] behind each layer in turn, computed as they are asked for; the last norm is left out.

    ``x`` [S, T, D]: P tokens of a stream, then the O tokens of its questions; ``positions`` [S, T], or [3, S, T] where
    the model has three axes; ``question`` [S, O]: which one a token belongs to; ``visible`` [S, O]: how many tokens of
    the stream it sees. Equal to a plain pass over ``stream[:visible] + question`` for each (tested).
    """
    rotation = _rotation(model, positions, x.dtype)
    num_prefix = x.shape[1] - question.shape[1]
    # A question sees the visible part of the stream, then what came before in itself; it sees no other question.
    sees_stream = torch.arange(num_prefix) < visible[..., None]
    sees_own = (question[..., None] == question[:, None]).tril()
    mask = torch.cat([sees_stream, sees_own], dim=-1)[:, None]
    for layer in model.layers:
        x = x + _attention(layer.self_attn, layer.input_layernorm(x), rotation, mask, num_prefix)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
        yield x


def packed_hidden(model: nn.Module, prefix: Tensor, questions: Tensor, num_visible: Tensor) -> Tensor:
    """Final hidden states [S, Q, L, D] of questions of one length.

    ``prefix`` [S, P, D] init prompt and frames back to back; ``questions`` [S, Q, L, D] embeddings; ``num_visible``
    [S, Q] how many prefix tokens a question may see; its positions go on from there.
    """
    s, p, d = prefix.shape
    q, length = questions.shape[1:3]
    own_positions = (num_visible[..., None] + torch.arange(length)).flatten(1)
    positions = torch.cat([torch.arange(p).expand(s, p), own_positions], dim=1)
    x = torch.cat([prefix, questions.flatten(1, 2)], dim=1)
    question = torch.arange(q).repeat_interleave(length).expand(s, -1)
    *_, last = packed_states(model, x, positions, num_visible.repeat_interleave(length, dim=1), question)
    return model.norm(last[:, p:]).view(s, q, length, d)


def causal_hidden(model: nn.Module, x: Tensor, positions: Tensor | None = None) -> Tensor:
    """Final hidden states [B, T, D] of embeddings ``x`` [B, T, D] at ``positions`` [B, T] (0, 1, ... by default).

    Rows may be padded at their ends: no token sees what comes after it. Positions may have gaps (transformers would
    take those for the borders of packed texts).
    """
    if positions is None:
        positions = torch.arange(x.shape[1]).expand(x.shape[:2])
    nothing = torch.zeros(len(x), 0, dtype=torch.long)
    *_, last = packed_states(model, x, positions, nothing, nothing)
    return model.norm(last)


def last_states(model: nn.Module, rows: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
    """Hidden states of the last ``counts[i]`` tokens of each of ``rows`` [T_i, D], each read on its own."""
    hidden = causal_hidden(model, pad_sequence(list(rows), batch_first=True))
    return [states[len(row) - count : len(row)] for states, row, count in zip(hidden, rows, counts, strict=True)]


def _rotation(model: nn.Module, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine [S, 1, T, d]."""
    turn = rotary_of(model.rotary_emb)(positions.flatten(-2), dtype)
    return tuple(wave.view(*positions.shape[-2:], -1)[:, None] for wave in (turn.cos, turn.signed_sin))


def _attention(attention: nn.Module, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor, p: int) -> Tensor:
    """``p`` tokens of a stream see what came before them; the others see what ``mask`` allows."""
    cos, signed_sin = rotation
    shape = (*x.shape[:2], -1, attention.head_dim)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    query, key, value = (projection(x).view(shape).transpose(1, 2) for projection in projections)
    query, key = (s * cos + s.roll(s.shape[-1] // 2, -1) * signed_sin for s in (query, key))
    key, value = (states.repeat_interleave(attention.num_key_value_groups, dim=1) for states in (key, value))
    parts = []
    if p:
        of_stream = (states[:, :, :p] for states in (query, key, value))
        parts.append(scaled_dot_product_attention(*of_stream, is_causal=True))
    if p < x.shape[1]:
        parts.append(scaled_dot_product_attention(query[:, :, p:], key, value, attn_mask=mask))
    return attention.o_proj(torch.cat(parts, dim=2).transpose(1, 2).flatten(2))

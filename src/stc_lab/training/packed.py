"""Many questions on one stream in one pass: each sees the frames before it and itself, as if asked alone."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.qwen2.modeling_qwen2 import Qwen2Model, apply_rotary_pos_emb

from stc_lab.training.causal import heads_of


def packed_hidden(
    model: Qwen2Model, prefix: Tensor, questions: Tensor, num_visible: Tensor, max_rows: int | None = None
) -> Tensor:
    """Final hidden states [S, Q, L, D] of question tokens.

    ``prefix`` [S, P, D] init prompt and frames back to back; ``questions`` [S, Q, L, D] embeddings;
    ``num_visible`` [S, Q] how many prefix tokens a question may see; its positions go on from there. Equal to the
    plain forward pass of ``prefix[:num_visible] + question`` (tested).
    """
    s, p, d = prefix.shape
    q, length = questions.shape[1:3]
    own = torch.arange(length)
    positions = torch.cat([torch.arange(p).expand(s, p), (num_visible[..., None] + own).flatten(1)], dim=1)
    x = torch.cat([prefix, questions.flatten(1, 2)], dim=1)
    rotary = model.rotary_emb(x, positions)
    mask = _question_mask(num_visible, p, length)
    for layer in model.layers:
        x = x + _attention(layer.self_attn, layer.input_layernorm(x), rotary, mask, p)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return model.norm(x[:, p:]).view(s, q, length, d)


def _attention(attention, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor, num_prefix: int) -> Tensor:
    query, key, value = heads_of(attention, x, partial(apply_rotary_pos_emb, cos=rotary[0], sin=rotary[1]))
    p = num_prefix
    of_prefix = F.scaled_dot_product_attention(query[:, :, :p], key[:, :, :p], value[:, :, :p], is_causal=True)
    of_questions = F.scaled_dot_product_attention(query[:, :, p:], key, value, attn_mask=mask)
    joined = torch.cat([of_prefix, of_questions], dim=2)
    return attention.o_proj(joined.transpose(1, 2).flatten(2))


def _question_mask(num_visible: Tensor, num_prefix: int, length: int) -> Tensor:
    """Additive mask [S, 1, Q*L, P + Q*L]: visible prefix, then the causal own block."""
    s, q = num_visible.shape
    sees_prefix = torch.arange(num_prefix) < num_visible[..., None]
    sees_prefix = sees_prefix[:, :, None, :].expand(s, q, length, num_prefix).flatten(1, 2)
    own = torch.block_diag(*[torch.ones(length, length).tril()] * q).bool().expand(s, -1, -1)
    allowed = torch.cat([sees_prefix, own], dim=-1)
    return torch.zeros(allowed.shape).masked_fill_(~allowed, float("-inf"))[:, None]

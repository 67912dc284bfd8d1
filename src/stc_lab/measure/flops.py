"""Analytic FLOPs from shapes: two per multiply-accumulate, matrix products only.

Not counted: softmax, norms, activations, residual additions, rotary embedding, pooling, top-k. They are a few
percent of a block and do not change which side of a comparison is cheaper. The bound that a measured saving is
compared with is the ratio of two such counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol


class TowerFacts(Protocol):
    """What a vision tower says about itself; ``num_tokens`` includes special tokens such as CLS."""

    num_tokens: int
    num_special_tokens: int
    hidden_size: int
    mlp_size: int
    num_layers: int


@dataclass(frozen=True)
class TextSizes:
    """The numbers of a Qwen2-like text config (grouped-query attention, gated MLP) alone.

    Reading them from a Hugging Face config costs more than the arithmetic below.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    head_dim: int | None = None

    @classmethod
    def of(cls, config: object) -> TextSizes:
        """The sizes of ``config``."""
        return cls(**{field.name: getattr(config, field.name, None) for field in fields(cls)})


def vit_block_flops(num_tokens: int, hidden: int, mlp: int, num_pairs: int | None = None) -> int:
    """One dense pre-norm ViT block for one frame of ``T = num_tokens`` tokens, width ``C``, MLP width ``M``.

    Four C x C projections, ``8 T C^2``; scores and weighted values over all pairs, ``4 T^2 C`` (or ``num_pairs`` in
    place of ``T^2``, where attention is local); the two MLP products, ``4 T C M``.
    """
    pairs = num_tokens**2 if num_pairs is None else num_pairs
    return 8 * num_tokens * hidden**2 + 4 * pairs * hidden + 4 * num_tokens * hidden * mlp


def vit_selective_block_flops(
    num_tokens: int, num_selected: int, hidden: int, mlp: int, num_pairs: int | None = None
) -> int:
    """The same block when only ``S = num_selected`` tokens are recomputed against a reference frame.

    Keys of all tokens, ``2 T C^2``; cosine of every key with its reference (three dot products of length C),
    ``6 T C``; query, value and output projections of the selected, ``6 S C^2``; selected against all,
    ``4 S T C`` (``num_pairs / T`` in place of ``T`` where attention is local); MLP of the selected, ``4 S C M``.
    """
    selection = 2 * num_tokens * hidden**2 + 6 * num_tokens * hidden
    pairs = num_selected * (num_tokens**2 if num_pairs is None else num_pairs) // num_tokens
    attention = 6 * num_selected * hidden**2 + 4 * pairs * hidden
    return selection + attention + 4 * num_selected * hidden * mlp


def patch_embed_flops(num_patches: int, hidden: int, patch_size: int, channels: int = 3) -> int:
    """The strided convolution that turns ``patch_size x patch_size`` pixels into ``hidden`` features."""
    return 2 * num_patches * hidden * channels * patch_size**2


def vision_flops(tower: TowerFacts, num_recomputed: Sequence[int] | None = None, patch_size: int | None = None) -> int:
    """One frame through all blocks of a tower, plus its patch embedding when ``patch_size`` is given.

    ``num_recomputed`` [L]: tokens recomputed in each block of a selective frame; ``None``: a dense (reference)
    frame. A tower whose tokens are groups says so in ``patches_per_token``, local attention in ``attention_pairs``.
    Raises ``ValueError`` when the length of ``num_recomputed`` is not the number of blocks.
    """
    group = getattr(tower, "patches_per_token", 1)
    num_tokens, shape = group * tower.num_tokens, (tower.hidden_size, tower.mlp_size)
    pairs = getattr(tower, "attention_pairs", None) or (None,) * tower.num_layers
    if num_recomputed is None:
        blocks = sum(vit_block_flops(num_tokens, *shape, num_pairs) for num_pairs in pairs)
    else:
        if len(num_recomputed) != tower.num_layers:
            raise ValueError(f"num_recomputed has {len(num_recomputed)} entries, the tower {tower.num_layers} blocks")
        counts = [group * int(n) for n in num_recomputed]
        blocks = sum(
            vit_selective_block_flops(num_tokens, n, *shape, num_pairs)
            for n, num_pairs in zip(counts, pairs, strict=True)
        )
    if patch_size is None:
        return blocks
    num_patches, channels = num_tokens - tower.num_special_tokens, getattr(tower, "num_channels", 3)
    return blocks + patch_embed_flops(num_patches, tower.hidden_size, patch_size, channels)


def projector_flops(num_tokens: int, in_dim: int, hidden: int) -> int:
    """The two-layer projector of LLaVA models, ``in_dim -> hidden -> hidden``, for ``num_tokens`` tokens."""
    return 2 * num_tokens * (in_dim * hidden + hidden**2)


def decoder_flops(
    text_config: TextSizes, num_new_tokens: int, num_context_tokens: int = 0, with_lm_head: int = 0
) -> int:
    """``n`` new tokens through a decoder that already holds ``num_context_tokens`` cached keys and values.

    Per layer, with width H, A = heads x head size, B = key-value heads x head size, MLP width I: query and
    output projections ``4 n H A``; keys and values ``4 n H B``; gated MLP ``6 n H I``; causal attention
    ``4 A`` per pair, where new token i sees the context and the new tokens up to itself, so
    ``n * context + n (n + 1) / 2`` pairs. ``with_lm_head``: number of positions whose logits are computed.
    """
    hidden, n = text_config.hidden_size, num_new_tokens
    head_dim = getattr(text_config, "head_dim", None) or hidden // text_config.num_attention_heads
    width, kv_width = text_config.num_attention_heads * head_dim, text_config.num_key_value_heads * head_dim
    projections = 4 * n * hidden * (width + kv_width)
    mlp = 6 * n * hidden * text_config.intermediate_size
    pairs = n * num_context_tokens + n * (n + 1) // 2
    per_layer = projections + mlp + 4 * width * pairs
    return text_config.num_hidden_layers * per_layer + 2 * with_lm_head * hidden * text_config.vocab_size

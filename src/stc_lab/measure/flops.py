"""Analytic FLOPs from shapes: two per multiply-accumulate, matrix products only.

Not counted: softmax, norms, activations, residual additions, rotary embedding, pooling, top-k. They are a few
percent of a block and do not change which side of a comparison is cheaper. The bound that a measured saving is
compared with is the ratio of two such counts.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from stc_lab.vision.tower import TowerFacts


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


def patch_embed_flops(num_patches: int, hidden: int, patch_size: int, channels: int = 3) -> int:
    """The strided convolution that turns ``patch_size x patch_size`` pixels into ``hidden`` features."""
    return 2 * num_patches * hidden * channels * patch_size**2


def vision_flops(facts: TowerFacts) -> int:
    """One dense frame through all blocks of a tower, without its patch embedding."""
    num_tokens = facts.patches_per_token * facts.num_tokens
    pairs = facts.attention_pairs or (None,) * facts.num_layers
    return sum(vit_block_flops(num_tokens, facts.hidden_size, facts.mlp_size, num_pairs) for num_pairs in pairs)


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
    # Per layer: projections, MLP, and attention over the pairs a causal mask leaves.
    projections = 4 * n * hidden * (width + kv_width)
    mlp = 6 * n * hidden * text_config.intermediate_size
    pairs = n * num_context_tokens + n * (n + 1) // 2
    per_layer = projections + mlp + 4 * width * pairs
    return text_config.num_hidden_layers * per_layer + 2 * with_lm_head * hidden * text_config.vocab_size

"""FLOPs of a frame of which only some tokens are recomputed, from the formula of the paper (STC, arXiv 2512.00891)."""

from __future__ import annotations

from collections.abc import Sequence

from stc_lab.vision import TowerFacts


def selective_block_flops(
    num_tokens: int, num_selected: int, hidden: int, mlp: int, num_pairs: int | None = None
) -> int:
    """A dense ViT block when only ``S = num_selected`` tokens are recomputed against a reference frame.

    Keys of all tokens, ``2 T C^2``; cosine of every key with its reference (three dot products of length C),
    ``6 T C``; query, value and output projections of the selected, ``6 S C^2``; selected against all,
    ``4 S T C`` (``num_pairs / T`` in place of ``T`` where attention is local); MLP of the selected, ``4 S C M``.
    """
    selection = 2 * num_tokens * hidden**2 + 6 * num_tokens * hidden
    pairs = num_selected * (num_tokens**2 if num_pairs is None else num_pairs) // num_tokens
    attention = 6 * num_selected * hidden**2 + 4 * pairs * hidden
    return selection + attention + 4 * num_selected * hidden * mlp


def selective_frame_flops(facts: TowerFacts, num_recomputed: Sequence[int]) -> int:
    """A frame through all blocks; ``num_recomputed`` [L]: tokens recomputed in each."""
    group, pairs = facts.patches_per_token, facts.attention_pairs or (None,) * facts.num_layers
    return sum(
        selective_block_flops(group * facts.num_tokens, group * n, facts.hidden_size, facts.mlp_size, num_pairs)
        for n, num_pairs in zip(num_recomputed, pairs, strict=True)
    )

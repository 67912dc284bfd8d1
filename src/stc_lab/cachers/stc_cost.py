"""Matrix products of a layer that STC-Cacher runs for selected tokens only."""

from __future__ import annotations

from stc_lab.cachers.likeness import Feature
from stc_lab.cachers.reference import Reuse
from stc_lab.vision.tower import TowerFacts


def selective_block_flops(
    facts: TowerFacts,
    layer: int,
    num_selected: int,
    feature: Feature = "key",
    reuse: Reuse = "both",
    compares: bool = True,
) -> int:
    """FLOPs of one such layer for one frame: T patches of width C, S of them selected, MLP width M.

    Comparing costs :func:`comparison_flops` (a selection taken over from another layer only the projection).
    Attention of the selected: ``6 S C^2`` for the other projections (``8`` for ``hidden``) and ``4 S T C`` over all
    patches (fewer where attention is local); their MLP ``4 S C M``. What is not reused is computed for all: S = T.
    """
    num_patches, width = facts.patches_per_token * facts.num_tokens, facts.hidden_size
    num_attending = num_patches if reuse == "mlp" else facts.patches_per_token * num_selected
    num_fed = num_patches if reuse == "attention" else facts.patches_per_token * num_selected
    num_pairs = num_patches**2 if facts.attention_pairs is None else facts.attention_pairs[layer]
    num_others = 4 if feature == "hidden" else 3
    attention = 2 * num_others * num_attending * width**2 + 4 * (num_attending * num_pairs // num_patches) * width
    return comparison_flops(facts, feature, compares) + attention + 4 * num_fed * width * facts.mlp_size


def comparison_flops(facts: TowerFacts, feature: Feature, compares: bool = True) -> int:
    """Projecting what is compared for all patches, ``2 T C^2`` (nothing for ``hidden``); three dot products each."""
    num_patches, width = facts.patches_per_token * facts.num_tokens, facts.hidden_size
    projection = 0 if feature == "hidden" else 2 * num_patches * width**2
    return projection + (6 * num_patches * width if compares else 0)

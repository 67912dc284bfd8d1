"""STC-Cacher: recompute in each layer only the tokens that changed since a reference frame.

STC (arXiv 2512.00891), section 3, in the order of the paper: when a frame is the reference, which tokens are recomputed
in the others, and what that costs. How a layer runs in either mode is in ``selective``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from stc_lab.cachers.base import Cacher, Encoded, FrameTrace, dense_trace
from stc_lab.cachers.selective import (
    FEATURES,
    METRICS,
    REUSES,
    Feature,
    LayerReference,
    Metric,
    Reuse,
    Rule,
    Selection,
    length,
    likeness,
    run_reference,
    run_selective,
)
from stc_lab.types import precise, share
from stc_lab.vision.tower import TowerFacts, VisionTower

DEFAULT_THRESHOLD = 0.85
CHOICES = {"feature": FEATURES, "metric": METRICS, "reuse": REUSES}
SHARES = ("update_ratio", "threshold", "max_update_ratio", "refresh_share", "refresh_threshold")

EncodedPart = tuple[Tensor, list[FrameTrace]]
"""What leaves the last block for some frames of a call, and their traces."""


@dataclass
class STCCacherState:
    """Progress of one stream: frames seen, and the reference of each layer (``None`` before the first frame).

    ``embedded`` [T, C]: what entered the first layer for the reference frame, where scene cuts are looked for.
    """

    num_frames: int = 0
    references: list[LayerReference] | None = None
    embedded: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class STCCacher(Cacher):
    """STC-Cacher (arXiv 2512.00891, section 3), by default in the key variant of the released code.

    Every ``interval``-th chunk of ``chunk_size`` frames is computed in full and its last frame becomes the reference;
    ``interval=None`` keeps the first one for the whole stream. In other frames each layer compares all tokens with the
    reference and recomputes the least similar share ``update_ratio``, or, when ``threshold`` is given, those with a
    cosine below it, at most a share ``max_update_ratio`` (a frame equal to the reference then recomputes none). The
    others add the reference's attention and MLP output to their own input.

    The axes of the ablations (tables 4 to 8, figure 7): ``feature`` is what is compared, and is fresh for all tokens;
    ``metric``: distances and plain products select by ratio only; ``reuse``: one of the two outputs, the other is
    computed for all tokens; ``selection_layer``: later layers take over its selection. ``refresh_share``: a frame is a
    scene cut, and a new reference besides the regular ones, when more than this share of its embedded tokens have a
    cosine below ``refresh_threshold``; half of the tokens tells cuts from motion in the real clips we looked at.

    A frame's chunk follows from its number in the stream alone, so no result depends on how frames are divided over
    calls. ``protect_cls`` recomputes special tokens always and takes shares of the patches only; off, they compete
    like any token and, being equal in every frame at the input, stay as in the reference (as released).

    Raises ``ValueError`` naming the setting, its value and the rule.
    """

    interval: int | None = 2
    update_ratio: float = 0.25
    threshold: float | None = None
    max_update_ratio: float = 1.0
    feature: Feature = "key"
    metric: Metric = "cosine"
    reuse: Reuse = "both"
    selection_layer: int | None = None
    refresh_share: float | None = None
    refresh_threshold: float = DEFAULT_THRESHOLD
    chunk_size: int = 1
    protect_cls: bool = True
    name: str = "stc"

    def __post_init__(self) -> None:
        if self.interval is not None and self.interval < 1:
            raise ValueError(f"cacher.interval={self.interval}: must be at least 1, or null for one reference only")
        if self.chunk_size < 1:
            raise ValueError(f"cacher.chunk_size={self.chunk_size}: must be at least 1")
        if self.selection_layer is not None and self.selection_layer < 0:
            raise ValueError(f"cacher.selection_layer={self.selection_layer}: must be a layer from 0 on, or null")
        for field, choices in CHOICES.items():
            if getattr(self, field) not in choices:
                raise ValueError(f"cacher.{field}={getattr(self, field)}: must be one of {', '.join(choices)}")
        for field in SHARES:
            value = getattr(self, field)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ValueError(f"cacher.{field}={value}: must lie in [0, 1]")
        if self.threshold is not None and self.metric != "cosine":
            raise ValueError(
                f"cacher.metric={self.metric} has no fixed scale, so cacher.threshold={self.threshold} means nothing: "
                "use metric=cosine, or threshold=null and an update_ratio"
            )

    def answer_settings(self) -> dict[str, Any]:
        """The settings that can change an answer as they stand: without those that the others switch off."""
        if self.interval == 1:
            return {"interval": 1}
        idle = {"name"} | ({"refresh_threshold"} if self.refresh_share is None else set())
        idle |= {"threshold", "max_update_ratio"} if self.threshold is None else {"update_ratio"}
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in idle}

    def new_state(self) -> STCCacherState:
        return STCCacherState()

    def run(self, tower: VisionTower, x: Tensor, state: STCCacherState) -> Encoded:
        self._check(tower, x, state)
        pieces, traces = [], []
        x, num_tokens = x.contiguous(), x.shape[1]
        while len(x):
            # A chunk that was begun in an earlier call is finished first.
            size = self.chunk_size - state.num_frames % self.chunk_size
            piece, more = self._run_chunk(tower, x[:size], state)
            pieces.append(piece)
            traces += more
            x = x[size:]
        return Encoded(pieces[0] if len(pieces) == 1 else torch.cat(pieces), traces, num_tokens)

    def flops(self, facts: TowerFacts, trace: FrameTrace) -> int:
        if trace.similarity is None:
            return super().flops(facts, trace)
        layers = enumerate(zip(trace.num_recomputed, trace.similarity, strict=True))
        blocks = sum(
            selective_block_flops(facts, layer, count, self.feature, self.reuse, similarity is not None)
            for layer, (count, similarity) in layers
        )
        return blocks if self.refresh_share is None else blocks + comparison_flops(facts, "hidden")

    def _check(self, tower: VisionTower, x: Tensor, state: STCCacherState) -> None:
        if self.selection_layer is not None and self.selection_layer >= len(tower.blocks):
            raise ValueError(f"cacher.selection_layer={self.selection_layer}: the tower has {len(tower.blocks)} layers")
        if state.references and state.references[0].update.shape != x.shape[1:]:
            kept = tuple(state.references[0].update.shape)
            raise ValueError(f"frames of {tuple(x.shape[1:])} (tokens, width) after {kept}: start a new stream")

    def _run_chunk(self, tower: VisionTower, x: Tensor, state: STCCacherState) -> EncodedPart:
        """Frames ``x`` [F, T, C] that belong to one chunk."""
        # Section 3: a new reference every ``interval`` chunks.
        chunk = state.num_frames // self.chunk_size
        is_reference = chunk == 0 if self.interval is None else chunk % self.interval == 0
        state.num_frames += len(x)
        if is_reference:
            return self._full(tower, x, state)
        return self._selective(tower, x, state) if self.refresh_share is None else self._watchful(tower, x, state)

    def _full(self, tower: VisionTower, x: Tensor, state: STCCacherState) -> EncodedPart:
        """All tokens of frames ``x`` [F, T, C], the last of which becomes the reference."""
        traces = [dense_trace(tower, x.shape[1], len(x)) for _ in x]
        state.references, rule = [], self._rule(tower)
        state.embedded = None if self.refresh_share is None else x[-1].clone()
        for block in tower.blocks:
            x, reference = run_reference(block, x, rule)
            state.references.append(reference)
        return x, traces

    def _selective(self, tower: VisionTower, x: Tensor, state: STCCacherState) -> EncodedPart:
        """The tokens of frames ``x`` [F, T, C] that changed since the reference, layer by layer."""
        traces = [FrameTrace(False, [], [], [], batch_size=len(x)) for _ in x]
        rule, shared = self._rule(tower), None
        for index, (block, reference) in enumerate(zip(tower.blocks, state.references, strict=True)):
            # Each layer selects for itself, up to the one whose selection the rest share.
            x, chosen, similarity = run_selective(block, x, reference, rule, shared)
            shared = chosen if index == self.selection_layer else shared
            for frame, indices in enumerate(chosen.per_frame()):
                traces[frame].num_recomputed.append(chosen.counts[frame])
                traces[frame].recomputed.append(indices)
                traces[frame].similarity.append(None if similarity is None else similarity[frame])
        return x, traces

    def _watchful(self, tower: VisionTower, x: Tensor, state: STCCacherState) -> EncodedPart:
        """Frames ``x`` [F, T, C], each of which may turn out to be a scene cut and the reference of what follows."""
        pieces, traces = [], []
        while len(x):
            # Up to the first cut all frames have the present reference; from it on they have another.
            cuts = self._changed_share(x, state.embedded).gt(self.refresh_share).nonzero().flatten().tolist()
            until = cuts[0] if cuts else len(x)
            piece, more = self._selective(tower, x[:until], state) if until else self._full(tower, x[:1], state)
            pieces.append(piece)
            traces += more
            x = x[max(1, until) :]
        return torch.cat(pieces), traces

    def _changed_share(self, x: Tensor, reference: Tensor) -> Tensor:
        """Share [F] of the embedded tokens ``x`` [F, T, C] unlike those of the reference [T, C]."""
        similarity = likeness("cosine", x, reference, length(precise(reference)))
        return similarity.lt(self.refresh_threshold).float().mean(1)

    def _rule(self, tower: VisionTower) -> Rule:
        num_protected = tower.facts.num_special_tokens if self.protect_cls else 0
        return Rule(self.feature, self.metric, self.reuse, lambda similarity: self._select(similarity, num_protected))

    def _select(self, similarity: Tensor, num_protected: int) -> Selection:
        if self.threshold is None:
            return least_similar(similarity, self.update_ratio, num_protected)
        return below_threshold(similarity, self.threshold, self.max_update_ratio, num_protected)


def least_similar(similarity: Tensor, ratio: float, num_protected: int) -> Selection:
    """The share ``ratio`` of each frame's tokens with the lowest ``similarity`` [F, T]; equal values: lower index.

    At least one token, ``max(1, floor(ratio * T))``. The first ``num_protected`` tokens are chosen besides, and
    the share is of the others.
    """
    num_frames, num_tokens = similarity.shape
    count = num_protected + max(1, share(num_tokens - num_protected, ratio))
    order = _protect(similarity, num_protected).argsort(dim=1, stable=True)
    chosen = order[:, :count].sort(dim=1).values
    starts = torch.arange(num_frames, device=similarity.device).unsqueeze(1) * num_tokens
    return Selection((chosen + starts).flatten(), [count] * num_frames, num_tokens)


def below_threshold(similarity: Tensor, threshold: float, max_ratio: float, num_protected: int) -> Selection:
    """Every token with ``similarity`` [F, T] below ``threshold``, the least similar first where the cap binds.

    The cap is ``floor(max_ratio * T)`` per frame; a frame like its reference may choose none. The first
    ``num_protected`` tokens are chosen besides, and the cap is on the others.
    """
    num_tokens = similarity.shape[1]
    cap = num_protected + share(num_tokens - num_protected, max_ratio)
    similarity = _protect(similarity, num_protected)
    chosen = similarity < threshold
    # Where more tokens changed than the cap allows, the least similar ones.
    if cap < num_tokens:
        within_cap = torch.zeros_like(chosen)
        within_cap.scatter_(1, similarity.argsort(dim=1, stable=True)[:, :cap], True)
        chosen = chosen & within_cap
    return Selection(chosen.flatten().nonzero().squeeze(1), chosen.sum(1).tolist(), num_tokens)


def _protect(similarity: Tensor, num_protected: int) -> Tensor:
    """``similarity`` [F, T] by which the first tokens are always chosen."""
    if num_protected == 0:
        return similarity
    similarity = similarity.clone()
    similarity[:, :num_protected] = -torch.inf
    return similarity


def selective_block_flops(
    facts: TowerFacts,
    layer: int,
    num_selected: int,
    feature: Feature = "key",
    reuse: Reuse = "both",
    compares: bool = True,
) -> int:
    """FLOPs of a layer run for selected tokens of one frame: T patches of width C, S of them selected, MLP width M.

    Comparing costs ``comparison_flops`` (a selection taken over from another layer only the projection).
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

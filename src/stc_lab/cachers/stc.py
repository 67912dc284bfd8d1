"""STC-Cacher: recompute in each layer only the tokens that changed since a reference frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stc_lab.cachers.base import Encoded, FrameTrace, dense_trace
from stc_lab.cachers.likeness import length, likeness, precise
from stc_lab.cachers.reference import LayerReference, Rule, run_reference
from stc_lab.cachers.selection import Selection, below_threshold, least_similar
from stc_lab.cachers.selective import run_selective
from stc_lab.cachers.stc_cost import comparison_flops, selective_block_flops
from stc_lab.cachers.stc_options import STCOptions
from stc_lab.vision.tower import TowerFacts, VisionTower

Piece = tuple[Tensor, list[FrameTrace]]


@dataclass
class STCCacherState:
    """Progress of one stream: frames seen, and the reference of each layer (``None`` before the first frame).

    ``embedded`` [T, C]: what entered the first layer for the reference frame, where scene cuts are looked for.
    """

    num_frames: int = 0
    references: list[LayerReference] | None = None
    embedded: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class STCCacher(STCOptions):
    """STC-Cacher (arXiv 2512.00891, section 3), by default in the key variant of the released code.

    Frames come in chunks of ``chunk_size``. Chunk 0, ``interval``, 2 * ``interval``, ... is computed in full, and
    its last frame becomes the reference; ``interval=None`` keeps the first one for the whole stream. In any other
    frame each layer computes the keys of all tokens, compares them with the reference's by cosine, and recomputes
    only the least similar tokens: a share ``update_ratio``, or, when ``threshold`` is given, those with a cosine
    below it, at most a share ``max_update_ratio`` (a frame equal to the reference then recomputes none). The others
    keep the reference's value, attention output and MLP output on top of their own input.

    The axes of the ablations (tables 4 to 8, figure 7): ``feature`` compares keys, values or the layer's input
    (``hidden``); what is compared is fresh for all tokens, and keys or values that are not compared are the
    reference's for tokens that are not recomputed. ``metric``: distances and plain products select by ratio only.
    ``reuse``: only the attention output or only the MLP output is reused, the other computed for all tokens.
    ``selection_layer``: layers after it take over its selection; those before select for themselves.
    ``refresh_share``: a frame is a scene cut when more than this share of its embedded tokens have a cosine below
    ``refresh_threshold`` with those of the reference; it is then computed in full and becomes the reference, and the
    regular ones come as before. Half of the tokens tells cuts from motion in the real clips we looked at.

    ``chunk_size`` above 1 runs several frames as one batch, where throughput counts and latency does not. A frame's
    chunk follows from its number in the stream alone: a chunk that arrives in several calls, or is cut short by the
    end of the stream, runs in its own mode, and no result depends on how frames are divided over calls.
    ``protect_cls`` recomputes special tokens always and takes shares of the patches only; off, they compete like
    any token and, being equal in every frame at the input, stay as in the reference (as released).
    """

    def new_state(self) -> STCCacherState:
        return STCCacherState()

    def run(self, tower: VisionTower, x: Tensor, state: STCCacherState) -> Encoded:
        self._check(tower, x, state)
        pieces, traces = [], []
        x, num_tokens = x.contiguous(), x.shape[1]
        while len(x):
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

    def _run_chunk(self, tower: VisionTower, x: Tensor, state: STCCacherState) -> Piece:
        """Frames ``x`` [F, T, C] that belong to one chunk."""
        chunk = state.num_frames // self.chunk_size
        is_reference = chunk == 0 if self.interval is None else chunk % self.interval == 0
        state.num_frames += len(x)
        if is_reference:
            return self._full(tower, x, state)
        return self._selective(tower, x, state) if self.refresh_share is None else self._watchful(tower, x, state)

    def _full(self, tower: VisionTower, x: Tensor, state: STCCacherState) -> Piece:
        traces = [dense_trace(tower, x.shape[1], len(x)) for _ in x]
        state.references, rule = [], self._rule(tower)
        state.embedded = None if self.refresh_share is None else x[-1].clone()
        for block in tower.blocks:
            x, reference = run_reference(block, x, rule)
            state.references.append(reference)
        return x, traces

    def _selective(self, tower: VisionTower, x: Tensor, state: STCCacherState) -> Piece:
        traces = [FrameTrace(False, [], [], [], batch_size=len(x)) for _ in x]
        rule, shared = self._rule(tower), None
        for index, (block, reference) in enumerate(zip(tower.blocks, state.references, strict=True)):
            x, chosen, similarity = run_selective(block, x, reference, rule, shared)
            shared = chosen if index == self.selection_layer else shared
            for frame, indices in enumerate(chosen.per_frame()):
                traces[frame].num_recomputed.append(chosen.counts[frame])
                traces[frame].recomputed.append(indices)
                traces[frame].similarity.append(None if similarity is None else similarity[frame])
        return x, traces

    def _watchful(self, tower: VisionTower, x: Tensor, state: STCCacherState) -> Piece:
        """Frames ``x`` [F, T, C], each of which may turn out to be a scene cut and the reference of what follows."""
        pieces, traces = [], []
        while len(x):
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

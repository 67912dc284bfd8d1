"""Whole frames that look like the last one computed are not computed at all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stc_lab.cachers.base import Cacher, Encoded, FrameTrace, dense_trace
from stc_lab.cachers.selective import length, likeness
from stc_lab.types import precise
from stc_lab.vision.tower import TowerFacts, VisionTower


@dataclass
class FrameReuseState:
    """The frame computed last: its ``embedded`` tokens [T, C], their ``lengths`` [T], its ``features`` [T, C].

    ``age``: frames that have been answered with its features, itself included.
    """

    embedded: Tensor | None = None
    lengths: Tensor | None = None
    features: Tensor | None = None
    age: int = 0


@dataclass(frozen=True, kw_only=True)
class FrameReuseCacher(Cacher):
    """Reuse a frame's features as a whole while the stream stays like it.

    A frame whose embedded tokens have a mean cosine above ``threshold`` with those of the frame computed last gets
    that frame's features; any other is computed in full and is the one to compare with from then on. ``max_age``:
    a computed frame serves at most so many frames, itself included; ``None``: no limit. This is what the public
    description of the STC code says it does (reuse above a cosine of 0.85), which its code does not; the comparison
    needs the patch embedding alone, so that a reused frame costs next to nothing and knows nothing of small changes.
    """

    threshold: float = 0.85
    max_age: int | None = None
    name: str = "frame_reuse"

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold <= 1.0:
            raise ValueError(f"cacher.threshold={self.threshold}: must lie in [0, 1]")
        if self.max_age is not None and self.max_age < 1:
            raise ValueError(f"cacher.max_age={self.max_age}: must be at least 1, or null for no limit")

    def new_state(self) -> FrameReuseState:
        return FrameReuseState()

    def run(self, tower: VisionTower, x: Tensor, state: FrameReuseState) -> Encoded:
        num_tokens, features, traces = x.shape[1], [], []
        for frame in x:
            # Like the frame computed last, and that one not too old: its features as a whole.
            similarity = self._similarity(frame, state)
            if similarity is not None and float(similarity[0]) > self.threshold and state.age != self.max_age:
                state.age += 1
                traces.append(_reused_trace(tower, similarity.expand(num_tokens)))
            else:
                _compute(tower, frame, state)
                traces.append(dense_trace(tower, num_tokens, 1))
            features.append(state.features)
        return Encoded(torch.stack(features), traces, num_tokens)

    def flops(self, facts: TowerFacts, trace: FrameTrace) -> int:
        """Three dot products per token for the comparison, and the blocks unless the frame is reused."""
        comparison = 6 * facts.patches_per_token * facts.num_tokens * facts.hidden_size
        return comparison if trace.similarity else comparison + super().flops(facts, trace)

    def _similarity(self, frame: Tensor, state: FrameReuseState) -> Tensor | None:
        """Mean cosine [1] of the embedded tokens [T, C] with those kept; ``None`` where there are none to match."""
        if state.embedded is None or state.embedded.shape != frame.shape:
            return None
        return likeness("cosine", frame[None], state.embedded, state.lengths).mean(1)


def _compute(tower: VisionTower, frame: Tensor, state: FrameReuseState) -> None:
    x = frame[None]
    for block in tower.blocks:
        x = block(x)
    state.embedded, state.lengths, state.features, state.age = frame.clone(), length(precise(frame)), x[0], 1


def _reused_trace(tower: VisionTower, similarity: Tensor) -> FrameTrace:
    """Nothing was recomputed in any layer; the likeness of the whole frame stands for each of its tokens."""
    num_layers = len(tower.blocks)
    nothing = torch.empty(0, dtype=torch.long, device=similarity.device)
    return FrameTrace(False, [0] * num_layers, [nothing] * num_layers, [similarity] * num_layers)

"""What every cacher is: frozen settings, a state per stream, and a report of what was recomputed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from stc_lab.measure.flops import vision_flops
from stc_lab.vision.tower import TowerFacts, VisionTower


@dataclass
class FrameTrace:
    """What happened to one frame in the tower, layer by layer.

    ``num_recomputed`` [L]: tokens that went through the whole layer; ``recomputed``: per layer the ascending token
    indices, ``None`` for a frame that was computed in full without a comparison; ``similarity``: per layer the
    likeness [T] to the reference, ``None`` for a layer that compared nothing; ``batch_size``: frames that ran
    together with this one, itself included; ``groups``: of a method that merges, [T] for what enters each layer and
    what leaves the last one (L + 1 in all): the number of the token that each original token is part of.
    """

    is_reference: bool
    num_recomputed: list[int]
    recomputed: list[Tensor] | None = None
    similarity: list[Tensor | None] | None = None
    batch_size: int = 1
    groups: Sequence[Tensor] | None = None


@dataclass
class Encoded:
    """Features of the frames of one call, with one trace per frame.

    ``features`` [F, T, C] owns its memory: no later call writes to it. ``sizes`` is ``None`` where the features lie
    on the tower's full grid, so that the model pools them; otherwise [F, N]: the method has merged each
    frame to N patches, in reading order, each standing for that many, and no pooling follows.
    """

    features: Tensor
    traces: list[FrameTrace]
    num_tokens: int
    sizes: Tensor | None = None

    @property
    def is_reference(self) -> list[bool]:
        """Per frame: computed in full, and kept as reference where the method keeps any."""
        return [trace.is_reference for trace in self.traces]

    @property
    def num_recomputed(self) -> list[list[int]]:
        """Tokens recomputed per frame and layer."""
        return [trace.num_recomputed for trace in self.traces]

    @property
    def update_ratio(self) -> list[float]:
        """Per frame: share of the tokens recomputed, averaged over the layers."""
        return [sum(n) / (len(n) * self.num_tokens) for n in self.num_recomputed]

    def full_grid(self) -> Tensor:
        """Features [F, T, C] of all tokens that entered the tower: a merged token stands in each of its places."""
        if self.sizes is None:
            return self.features
        return torch.stack([x[trace.groups[-1]] for x, trace in zip(self.features, self.traces, strict=True)])


@dataclass(frozen=True, kw_only=True)
class Cacher(ABC):
    """Settings of a vision-side method. All that changes during a stream lives in the state.

    ``merged_tokens``: number of tokens per frame that replace the backbone's pooled grid, ``None`` for a method that
    keeps the grid (see ``Encoded``). ``merges_in_tower``: it needs a tower with ``can_merge``.
    """

    merged_tokens: ClassVar[int | None] = None
    merges_in_tower: ClassVar[bool] = False

    @abstractmethod
    def new_state(self) -> Any:
        """State for the start of a stream."""

    @abstractmethod
    def run(self, tower: VisionTower, x: Tensor, state: Any) -> Encoded:
        """Take embedded tokens ``x`` [F, T, C] of the next F frames through the blocks; advances ``state``."""

    @torch.no_grad()
    def encode(self, tower: VisionTower, pixels: Tensor, state: Any) -> Encoded:
        """Features of the next frames of a stream: ``pixels`` [F, 3, H, W], normalised, in time order."""
        encoded = self.run(tower, tower.embed(pixels), state)
        encoded.features = tower.finish(encoded.features)
        return encoded

    def flops(self, facts: TowerFacts, trace: FrameTrace) -> int:
        """FLOPs of the blocks for a frame that left ``trace``: two per multiply-accumulate, matrix products."""
        return vision_flops(facts)


def dense_trace(tower: VisionTower, num_tokens: int, batch_size: int) -> FrameTrace:
    """Trace of a frame computed in full."""
    return FrameTrace(True, [num_tokens] * len(tower.blocks), batch_size=batch_size)

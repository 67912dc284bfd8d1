"""What every cacher is: frozen settings, a state per stream, and a report of what was recomputed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stc_lab.vision.base import VisionTower


@dataclass
class FrameTrace:
    """What happened to one frame in the tower, layer by layer.

    ``num_recomputed`` [L]; ``recomputed``: per layer the ascending token indices, ``None`` for a frame that was
    computed in full without a comparison; ``similarity``: per layer the cosine [T] to the reference key, ``None``
    where no comparison was made; ``batch_size``: frames that ran together with this one, itself included.
    """

    is_reference: bool
    num_recomputed: list[int]
    recomputed: list[Tensor] | None = None
    similarity: list[Tensor] | None = None
    batch_size: int = 1


@dataclass
class Encoded:
    """Features of the frames of one call, with one trace per frame.

    ``features`` [F, T, C] owns its memory: no later call writes to it.
    """

    features: Tensor
    traces: list[FrameTrace]

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
        num_tokens = self.features.shape[1]
        return [sum(n) / (len(n) * num_tokens) for n in self.num_recomputed]


@dataclass(frozen=True, kw_only=True)
class Cacher(ABC):
    """Settings of a vision-side method. All that changes during a stream lives in the state."""

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


def dense_trace(tower: VisionTower, num_tokens: int, batch_size: int) -> FrameTrace:
    """Trace of a frame computed in full."""
    return FrameTrace(True, [num_tokens] * len(tower.blocks), batch_size=batch_size)

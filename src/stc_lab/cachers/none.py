"""No caching: every token of every frame is computed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from stc_lab.cachers.base import Cacher, Encoded, dense_trace
from stc_lab.vision.tower import VisionTower


@dataclass(frozen=True, kw_only=True)
class NoCacher(Cacher):
    """The uncompressed tower; frames of one call run as one batch. Equals the wrapped model bit for bit."""

    name: str = "none"

    def new_state(self) -> None:
        return None

    def run(self, tower: VisionTower, x: Tensor, state: None) -> Encoded:
        num_frames, num_tokens, _ = x.shape
        for block in tower.blocks:
            x = block(x)
        return Encoded(x, [dense_trace(tower, num_tokens, num_frames) for _ in range(num_frames)], num_tokens)

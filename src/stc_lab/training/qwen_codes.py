"""What a temporal patch should say about its cells: what the second frame shows, and what the first showed before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from stc_lab.pocket.world.labels import NUM_COLORS, NUM_KINDS, CellLabels
from stc_lab.training.codes import SCALE, VisualCode

WAS = 0.7
"""Weight of what was there before, beside 1 for what is there."""


@dataclass(frozen=True)
class PairLabels:
    """Labels of both frames of T pairs; see :class:`CellLabels`."""

    before: CellLabels
    now: CellLabels

    @property
    def has_changed(self) -> np.ndarray:
        """Cells [T, n*n] where a shape came, went or changed its colour within the pair."""
        differs = (self.before.kind != self.now.kind) | (self.before.color != self.now.color)
        return differs & (self.before.is_object | self.now.is_object)

    def fields(self) -> dict[str, np.ndarray]:
        """All that :meth:`PairCode.at` needs, [T, n*n] each; ``was_kind`` is -1 where nothing changed."""
        return {
            "kind": self.now.kind,
            "color": self.now.color,
            "coverage": self.now.coverage,
            "was_kind": np.where(self.has_changed, self.before.kind, -1),
            "was_color": self.before.color,
        }


class PairCode(VisualCode):
    """The directions of the ReKV pocket for kind and colour, so that its language model can read them, and others for
    what a cell showed before it changed. Nothing is said about place: a tower with rotary positions cannot know it."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        generator = torch.Generator().manual_seed(21)
        directions = normalize(torch.randn(NUM_KINDS + NUM_COLORS, dim, generator=generator), dim=-1)
        self.was_kind, self.was_color = directions[:NUM_KINDS], directions[NUM_KINDS:]

    def of_pairs(self, labels: PairLabels) -> Tensor:
        """Codes [T, n*n, dim]."""
        return self.of_fields(**{name: torch.from_numpy(values) for name, values in labels.fields().items()})

    def of_fields(self, kind: Tensor, color: Tensor, coverage: Tensor, was_kind: Tensor, was_color: Tensor) -> Tensor:
        """Codes [..., dim] of single cells."""
        was = self.was_kind[was_kind.clamp(min=0)] + self.was_color[was_color]
        return SCALE * (self.things(kind, color, coverage) + WAS * (was_kind >= 0)[..., None] * was)

"""The visual code: what a token should say about its cell, as a fixed vector (a supervised alignment).

The vision stage learns to output it, the language stage can start from it without any picture. It uses labels of the
procedural world, so pocket features are cleaner than those of a tower trained on the open web.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from stc_lab.pocket.world.labels import BACKGROUND, NUM_COLORS, NUM_KINDS, CellLabels
from stc_lab.pocket.world.vocabulary import COLOR_NAMES, CORNERS, SHAPES

SCALE = 3.0
FULL_COVERAGE, WELL_COVERED = 0.45, 0.4


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


class VisualCode:
    """Fixed random directions for place, kind and colour in ``dim`` dimensions."""

    def __init__(self, dim: int, cells: int = 14) -> None:
        generator = torch.Generator().manual_seed(20)
        directions = torch.randn(NUM_KINDS + NUM_COLORS, dim, generator=generator)
        directions = 1.2 * normalize(directions, dim=-1)
        self.kind, self.color = directions[:NUM_KINDS], directions[NUM_KINDS:]
        # Places that are near have codes that are near: smooth waves, mixed into the same space.
        waves = _place_waves(cells)
        mixing = torch.randn(waves.shape[1], dim, generator=generator) / dim**0.5
        self.place = normalize(waves @ mixing, dim=-1)

    def __call__(self, labels: CellLabels) -> Tensor:
        """Codes [T, cells*cells, dim] of labelled pictures."""
        kind, color = torch.from_numpy(labels.kind), torch.from_numpy(labels.color)
        cells = torch.arange(kind.shape[-1]).expand_as(kind)
        return self.at(cells, kind, color, torch.from_numpy(labels.coverage))

    def of_pairs(self, labels: PairLabels) -> Tensor:
        """Codes [T, cells*cells, dim] of what pairs show last."""
        return self(labels.now)

    def at(self, cells: Tensor, kind: Tensor, color: Tensor, coverage: Tensor) -> Tensor:
        """Codes [..., dim] of single cells; a cell that is half covered is half background."""
        return SCALE * (self.place[cells] + self.things(kind, color, coverage))

    def things(self, kind: Tensor, color: Tensor, coverage: Tensor) -> Tensor:
        """What cells show [..., dim], wherever they lie; not scaled."""
        share = (coverage / FULL_COVERAGE).clamp(max=1.0)[..., None]
        return share * (self.kind[kind] + self.color[color]) + (1 - share) * self.kind[BACKGROUND]

    @torch.no_grad()
    def shape_accuracy(self, tokens: Tensor, kind: Tensor, coverage: Tensor) -> float:
        """Share of well covered shape cells whose nearest shape direction is the right one; ``tokens`` [..., dim]."""
        mask = (kind < BACKGROUND) & (coverage > WELL_COVERED)
        scores = tokens[mask] @ normalize(self.kind[:BACKGROUND], dim=-1).T
        return (scores.argmax(-1) == kind[mask]).float().mean().item()

    def words(self) -> dict[str, Tensor]:
        """A direction of unit length for every shape, colour and corner: where its word may start from."""
        side = round(self.place.shape[0] ** 0.5)
        # A corner is the mean of the places in its quarter, without what all places share.
        quarters = self.place.view(2, side // 2, 2, side // 2, -1).mean(dim=(1, 3)).flatten(0, 1)
        quarters = quarters - quarters.mean(dim=0)
        directions = torch.cat([self.kind[: len(SHAPES)], self.color[: len(COLOR_NAMES)], quarters])
        return dict(zip((*SHAPES, *COLOR_NAMES, *CORNERS), normalize(directions, dim=-1), strict=True))


def _place_waves(cells: int) -> Tensor:
    """Sines and cosines of row and column at four wave lengths: float [cells*cells, 16]."""
    axis = (torch.arange(cells) + 0.5) / cells
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    waves = [f(math.pi * k * v) for k in (0.5, 1, 2, 4) for v in (x, y) for f in (torch.sin, torch.cos)]
    return torch.stack(waves, dim=-1).reshape(cells * cells, -1).float()


WAS = 0.7
"""Weight of what was there before, beside 1 for what is there."""


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

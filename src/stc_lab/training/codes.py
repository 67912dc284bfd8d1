"""The visual code: what a token should say about its cell, as a fixed vector (a supervised alignment).

The vision stage learns to output it, the language stage can start from it without any picture. It uses labels of the
procedural world, so pocket features are cleaner than those of a tower trained on the open web.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stc_lab.pocket.world.labels import BACKGROUND, NUM_COLORS, NUM_KINDS, CellLabels
from stc_lab.pocket.world.vocabulary import COLOR_NAMES, CORNERS, SHAPES

SCALE = 3.0
FULL_COVERAGE, WELL_COVERED = 0.45, 0.4


class VisualCode:
    """Fixed random directions for place, kind and colour in ``dim`` dimensions."""

    def __init__(self, dim: int, cells: int = 14) -> None:
        generator = torch.Generator().manual_seed(20)
        directions = torch.randn(NUM_KINDS + NUM_COLORS, dim, generator=generator)
        directions = 1.2 * torch.nn.functional.normalize(directions, dim=-1)
        self.kind, self.color = directions[:NUM_KINDS], directions[NUM_KINDS:]
        waves = _place_waves(cells)
        mixing = torch.randn(waves.shape[1], dim, generator=generator) / dim**0.5
        self.place = torch.nn.functional.normalize(waves @ mixing, dim=-1)

    def __call__(self, labels: CellLabels) -> Tensor:
        """Codes [T, cells*cells, dim] of labelled pictures."""
        kind, color = torch.from_numpy(labels.kind), torch.from_numpy(labels.color)
        cells = torch.arange(kind.shape[-1]).expand_as(kind)
        return self.at(cells, kind, color, torch.from_numpy(labels.coverage))

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
        scores = tokens[mask] @ torch.nn.functional.normalize(self.kind[:BACKGROUND], dim=-1).T
        return (scores.argmax(-1) == kind[mask]).float().mean().item()

    def words(self) -> dict[str, Tensor]:
        """A direction of unit length for every shape, colour and corner: where its word may start from."""
        normalize = torch.nn.functional.normalize
        side = round(self.place.shape[0] ** 0.5)
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

"""What became of a frame, cell by cell of the tower's grid and of the grid of visual tokens."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from stc_lab.cachers.base import FrameTrace
from stc_lab.vision.base import VisionTower

ROUNDING = 1e-2  # sizes are sums of fractions


class Fate(IntEnum):
    """What became of a visual token: ``JOINED`` is kept and stands for several, ``MERGED`` went into another."""

    KEPT = 0
    DROPPED = 1
    JOINED = 2
    MERGED = 3


@dataclass(frozen=True)
class TowerCells:
    """``computed`` [rows, columns]: share of the layers that computed a patch anew.

    ``groups`` [rows, columns]: number of the token that the patch ended in, for a method that merges in the tower.
    """

    computed: np.ndarray
    is_reference: bool
    groups: np.ndarray | None = None

    @property
    def num_groups(self) -> int:
        """Tokens that were left of the patches."""
        return len(np.unique(self.groups))


@dataclass(frozen=True)
class TokenCells:
    """``fates`` [rows, columns] of :class:`Fate`; ``num_kept`` of ``num_full`` visual tokens are left."""

    fates: np.ndarray
    num_kept: int
    num_full: int


def tower_cells(trace: FrameTrace, tower: VisionTower) -> TowerCells:
    """What the tower did; special tokens (a class token) have no cell and are not shown."""
    rows, columns = tower.grid
    groups, computed = None, torch.ones(tower.num_tokens)
    if trace.groups is not None:
        groups = _on_grid(trace.groups[-1], tower).reshape(rows, columns)
    elif trace.recomputed is not None:
        counts = torch.bincount(torch.cat([*trace.recomputed]).cpu(), minlength=tower.num_tokens)
        computed = counts.float() / len(trace.recomputed)
    return TowerCells(_on_grid(computed, tower).reshape(rows, columns), trace.is_reference, groups)


@dataclass(frozen=True)
class TokenFacts:
    """What is known of a frame's tokens around the pruner, as the session has them: see ``VisualTokens``."""

    grid: tuple[int, int]
    num_full: int
    sizes_full: Tensor | None
    positions: Tensor
    sizes: Tensor | None


def token_cells(facts: TokenFacts, merged: np.ndarray | None = None) -> TokenCells:
    """What the pruner did. ``merged`` [rows, columns]: for tokens merged in the tower, the token of each patch."""
    before = np.ones(facts.num_full) if facts.sizes_full is None else _numpy(facts.sizes_full)
    positions = _numpy(facts.positions)
    after = before[positions] if facts.sizes is None else _numpy(facts.sizes)
    is_all_there = len(positions) < facts.num_full and abs(after.sum() - before.sum()) < ROUNDING
    fates = np.full(facts.num_full, Fate.MERGED if is_all_there else Fate.DROPPED)
    fates[positions] = np.where(after > before[positions] + ROUNDING, Fate.JOINED, Fate.KEPT)
    is_merged = merged is not None and facts.sizes_full is not None
    on_grid = fates[merged] if is_merged else fates.reshape(facts.grid)
    return TokenCells(on_grid, len(positions), facts.num_full)


def _on_grid(values: Tensor, tower: VisionTower) -> np.ndarray:
    return tower.on_grid(values.detach().cpu()[None])[0].numpy()


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()

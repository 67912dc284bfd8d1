"""What became of the first frames of a stream, cell by cell of the tower's grid and of the grid of visual tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stc_lab.cachers.base import FrameTrace
from stc_lab.types import VisualTokens
from stc_lab.vision.tower import VisionTower

MOST_FRAMES = 24
LARGEST_PIXELS = (320, 240)  # width, height
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
    rows, columns = tower.facts.grid
    groups, computed = None, torch.ones(tower.facts.num_tokens)
    if trace.groups is not None:
        groups = _on_grid(trace.groups[-1], tower).reshape(rows, columns)
    # Share of the layers that computed a patch: each layer lists those that it did.
    elif trace.recomputed is not None:
        counts = torch.bincount(torch.cat([*trace.recomputed]).cpu(), minlength=tower.facts.num_tokens)
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
    # Sizes that still sum to what they were say that what is gone was merged, not dropped.
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


@dataclass(frozen=True)
class FrameMap:
    """One frame for drawing: ``tokens`` is ``None`` where the pruner does not work on frames."""

    picture: Image.Image
    time_s: float
    tower: TowerCells
    tokens: TokenCells | None


@dataclass(frozen=True)
class _Note:
    picture: Image.Image
    time_s: float
    trace: FrameTrace
    tower: VisionTower
    tokens: TokenFacts | None = None


class Collector:
    """The observer of one stream (``stc_lab.encoder.FrameObserver``): its first ``most_frames`` frames in a row.

    Not some frames out of all: methods compare a frame with the one before it, so neighbours belong together. What is
    kept of a frame is a small picture and index lists; nothing is computed before :meth:`frames` is called.
    """

    def __init__(self, most_frames: int = MOST_FRAMES) -> None:
        self._most_frames = most_frames
        self._notes: list[_Note] = []

    def encoded(self, pixels: np.ndarray, time_s: float, trace: FrameTrace, tower: VisionTower) -> _Note | None:
        """Keep what was computed of a frame, until there are enough; of a pair the second frame is shown."""
        if len(self._notes) >= self._most_frames:
            return None
        # Only what is drawn is kept: of merged patches the groups behind the last layer.
        groups = None if trace.groups is None else [trace.groups[-1]]
        picture = Image.fromarray(pixels if pixels.ndim == 3 else pixels[-1])
        picture.thumbnail(LARGEST_PIXELS, reducing_gap=2.0)
        return _Note(picture.copy(), time_s, replace(trace, similarity=None, groups=groups), tower)

    def remembered(self, note: _Note, full: VisualTokens, kept: VisualTokens | None) -> None:
        """Keep what the pruner left of it (``kept=None``: the memory prunes when it is read)."""
        if len(self._notes) >= self._most_frames:
            return
        facts = None
        if kept is not None:
            facts = TokenFacts(full.grid, full.num_tokens, full.sizes, kept.positions, kept.sizes)
        self._notes.append(replace(note, tokens=facts))

    def frames(self) -> list[FrameMap]:
        """What was collected, in time order."""
        return [_frame_map(note) for note in self._notes]


def _frame_map(note: _Note) -> FrameMap:
    tower = tower_cells(note.trace, note.tower)
    tokens = None if note.tokens is None else token_cells(note.tokens, tower.groups)
    return FrameMap(note.picture, note.time_s, tower, tokens)

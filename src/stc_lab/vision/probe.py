"""Attention and keys of a tower's layer, for methods that ask for them, whatever cacher runs the tower.

The cacher gets a view of the tower in which one block notes what enters it. Afterwards, and only for frames that are
asked about, the layer's projections are computed from that once more, so that their cost can be told apart.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from torch import Tensor

from stc_lab.vision.base import VisionTower
from stc_lab.vision.layer_reading import Tap
from stc_lab.vision.tap import Note, TappedTower

NEEDS = frozenset({"attention_received", "keys"})


class Trace(Protocol):
    """What a cacher says of a frame (see ``stc_lab.cachers.base.FrameTrace``)."""

    num_recomputed: list[int]
    groups: Sequence[Tensor] | None


class Probe:
    """Of one stream. ``layer`` counts the blocks that are run; VisionZip reads the last one.

    Use: run the cacher on :meth:`view`, :meth:`collect` with its traces, then read the taps of the frames. ``last``
    is the tap of the newest frame that was run. Raises ``ValueError`` for a need it does not know.
    """

    def __init__(self, needs: Collection[str], layer: int = -1) -> None:
        unknown = sorted(set(needs) - NEEDS)
        if unknown:
            raise ValueError(f"needs={unknown}: a tower can be asked for {', '.join(sorted(NEEDS))}")
        self._needs = frozenset(needs)
        self._layer = layer
        self._tower: TappedTower | None = None
        self.last: Tap | None = None

    def view(self, tower: VisionTower) -> VisionTower:
        """``tower`` with a tap in it; the tower itself where nothing is needed."""
        if not self._needs:
            return tower
        self._tower = TappedTower(tower, self._layer)
        return self._tower

    def collect(self, traces: Sequence[Trace], merged: bool = False) -> list[Tap | None]:
        """One tap per frame that went through the view; a frame that was not run has that of the frame it reuses.

        ``merged``: the cacher handed on merged tokens in place of the grid. Without needs: ``None`` for each.
        """
        if self._tower is None:
            return [None] * len(traces)
        notes = self._tower.tap.take()
        was_run = [len(notes) == len(traces) or any(trace.num_recomputed) for trace in traces]
        assert sum(was_run) == len(notes), "every frame passes the tapped layer once, or is not run at all"
        waiting, taps = iter(notes), []
        for trace, ran in zip(traces, was_run, strict=True):
            if ran:
                self.last = self._tap(next(waiting), trace.groups, merged)
            taps.append(self.last)
        return taps

    def _tap(self, note: Note, groups: Sequence[Tensor] | None, merged: bool) -> Tap:
        tower = self._tower
        if groups is None:
            return Tap(tower.inner, tower.tap.block, self._needs, note)
        entering = groups[self._layer % tower.num_layers]
        return Tap(tower.inner, tower.tap.block, self._needs, note, entering, groups[-1] if merged else None)

"""A cacher on a stream of frames, on all slices of a tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from stc_lab.bench.products import split_ms
from stc_lab.bench.rows import median
from stc_lab.bench.stopwatch import time_ms
from stc_lab.bench.towers import Slice
from stc_lab.cachers import Cacher, Encoded, FrameTrace
from stc_lab.measure.flops import vision_flops

T = TypeVar("T")


class MethodRun:
    """One method on its stream, slice by slice."""

    def __init__(self, cacher: Cacher, embedded: Sequence[tuple[Slice, Tensor]]) -> None:
        self.cacher = cacher
        self._runs = [SliceRun(cacher, part, frames) for part, frames in embedded]

    def step_ms(self, device: torch.device) -> float:
        """All frames, one per call: milliseconds for all layers."""
        return sum(run.part.factor * time_ms(device, run.step) for run in self._runs)

    @property
    def saved_flops(self) -> float:
        """Share of the FLOPs of the last step that the plain tower would have needed on top."""
        return 1 - sum(run.flops for run in self._runs) / sum(run.dense_flops for run in self._runs)

    def overhead_ms(self, device: torch.device) -> float | None:
        """See :meth:`SliceRun.overhead_ms`, for all layers."""
        parts = [run.overhead_ms(device) for run in self._runs]
        if any(own_ms is None for own_ms in parts):
            return None
        return sum(run.part.factor * own_ms for run, own_ms in zip(self._runs, parts, strict=True))


class SliceRun:
    """A method on one slice."""

    def __init__(self, cacher: Cacher, part: Slice, frames: Tensor) -> None:
        self.part = part
        self._cacher, self._tower, self._frames, self._state = cacher, part.tower, frames, cacher.new_state()
        self._traces: list[FrameTrace] = []

    def step(self) -> None:
        """All frames, one per call."""
        runs = [self._cacher.run(self._tower, frame, self._state) for frame in self._frames.split(1)]
        self._traces = [trace for run in runs for trace in run.traces]

    @property
    def flops(self) -> float:
        """FLOPs of the last step, for the layers that the slice stands for."""
        return self.part.factor * sum(self._cacher.flops(self._tower.facts, trace) for trace in self._traces)

    @property
    def dense_flops(self) -> float:
        """Those of the plain tower."""
        return self.part.factor * len(self._traces) * vision_flops(self._tower.facts)

    def overhead_ms(self, device: torch.device) -> float | None:
        """All but the matrix products of a frame that is not computed in full, median; ``None`` without such frames.

        On a CPU from one run, which the stopwatches slow down by microseconds. On a GPU they would stand in its way,
        so the products of one run are set against another run's time.
        """
        splits = self._other_frames(lambda work: split_ms(device, work))
        if not splits:
            return None
        if device.type == "cpu":
            return median([total - products for total, products in splits])
        totals = self._other_frames(lambda work: time_ms(device, work))
        return max(0.0, median(totals) - median([products for _, products in splits]))

    def _other_frames(self, measure: Callable[[Callable[[], None]], T]) -> list[T]:
        """``measure`` of each frame of a step that was not computed in full."""
        values = []
        for frame in self._frames.split(1):
            runs: list[Encoded] = []
            value = measure(lambda f=frame, r=runs: r.append(self._cacher.run(self._tower, f, self._state)))
            if not runs[0].is_reference[0]:
                values.append(value)
        return values

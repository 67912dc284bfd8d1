"""Time of the vision tower per frame, for several cachers against none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from stc_lab.bench.products import split_ms
from stc_lab.bench.rows import Row, median, quartiles, saved_shares
from stc_lab.bench.stopwatch import Deadline, time_ms
from stc_lab.cachers import Cacher, Encoded, FrameTrace, NoCacher
from stc_lab.measure.flops import vision_flops
from stc_lab.vision import VisionTower

MIN_REPEATS = 2
T = TypeVar("T")


@torch.inference_mode()
def vision_rows(
    tower: VisionTower,
    cachers: Mapping[str, Cacher],
    *,
    device: torch.device,
    sizes: str,
    full_layers: int,
    num_frames: int,
    repeats: int,
    limit_s: float | None,
) -> list[Row]:
    """One row per cacher. In a repeat every method takes ``num_frames`` frames of its own endless stream.

    The order of the methods rotates from repeat to repeat; every cacher is paired with the plain tower of the
    same repeat. Only the blocks are timed: embedding is the same for all and weighs more in a shortened tower.
    """
    frames = _frames(tower, num_frames, device)
    runs = {"none": _Run(NoCacher(), tower, frames)}
    runs |= {name: _Run(cacher, tower, frames) for name, cacher in cachers.items()}
    for run in runs.values():
        run.step()
    times: dict[str, list[float]] = {name: [] for name in runs}
    deadline = Deadline(limit_s)
    for repeat in range(repeats):
        if repeat >= MIN_REPEATS and deadline.has_passed():
            break
        for name in _rotated(list(runs), repeat):
            elapsed_ms = time_ms(device, runs[name].step) / num_frames
            times[name].append(elapsed_ms * full_layers / tower.num_layers)
    shape = {"sizes": sizes, "num_layers": tower.num_layers, "full_layers": full_layers}
    rows = {name: _row(name, runs[name], times["none"], times[name], num_frames, shape) for name in cachers}
    return [_with_overhead(row, runs[name].overhead_ms(device)) for name, row in rows.items()]


class _Run:
    """One method on its stream."""

    def __init__(self, cacher: Cacher, tower: VisionTower, frames: Tensor) -> None:
        self.cacher = cacher
        self._tower, self._frames, self._state = tower, frames, cacher.new_state()
        self._traces: list[FrameTrace] = []

    def step(self) -> None:
        """All frames, one per call."""
        runs = [self.cacher.run(self._tower, frame, self._state) for frame in self._frames.split(1)]
        self._traces = [trace for run in runs for trace in run.traces]

    @property
    def saved_flops(self) -> float:
        """Share of the FLOPs of the last step that the plain tower would have needed on top."""
        facts = self._tower.facts
        own = sum(self.cacher.flops(facts, trace) for trace in self._traces)
        return 1 - own / (len(self._traces) * vision_flops(facts))

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
            value = measure(lambda f=frame, r=runs: r.append(self.cacher.run(self._tower, f, self._state)))
            if not runs[0].is_reference[0]:
                values.append(value)
        return values


def _row(name: str, run: _Run, plain_ms: list[float], own_ms: list[float], num_frames: int, shape: dict) -> Row:
    saved = saved_shares(plain_ms, own_ms)
    return Row(
        part="vision",
        method=name,
        setting=repr(run.cacher),
        uncompressed_ms=median(plain_ms),
        compressed_ms=median(own_ms),
        saved=median(saved),
        saved_quartiles=quartiles(saved),
        bound=run.saved_flops,
        num_pairs=len(own_ms),
        num_frames=num_frames * len(own_ms),
        **shape,
    )


def _with_overhead(row: Row, own_ms: float | None) -> Row:
    """``own_ms``: for the layers that were run."""
    if own_ms is None:
        return row
    own_ms *= row.full_layers / row.num_layers
    return replace(row, overhead_ms=own_ms, overhead_share=own_ms / row.uncompressed_ms)


def _frames(tower: VisionTower, num_frames: int, device: torch.device) -> Tensor:
    """Embedded tokens [F, T, C] of a still picture with noise."""
    generator = torch.Generator().manual_seed(0)
    side = tower.facts.image_size
    still = torch.randn(tower.facts.num_channels, side, side, generator=generator)
    pixels = still + 0.1 * torch.randn(num_frames, *still.shape, generator=generator)
    return tower.embed(pixels.to(device))


def _rotated(names: list[str], by: int) -> list[str]:
    by %= len(names)
    return names[by:] + names[:by]

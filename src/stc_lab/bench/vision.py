"""Time of the vision tower per frame, for several cachers against none."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stc_lab.bench.rows import Row, median, quartiles, saved_shares
from stc_lab.bench.stopwatch import Deadline, time_ms
from stc_lab.cachers import Cacher, FrameTrace, NoCacher
from stc_lab.measure.flops import vision_flops
from stc_lab.vision import VisionTower

MIN_REPEATS = 2


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
    return [_row(name, runs[name], times["none"], times[name], num_frames, shape) for name in cachers]


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
        own = sum(vision_flops(facts, None if t.is_reference else t.num_recomputed) for t in self._traces)
        return 1 - own / (len(self._traces) * vision_flops(facts))


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

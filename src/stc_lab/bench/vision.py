"""Time of the vision tower per frame, for several cachers against none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from stc_lab.bench.rows import Deadline, Row, median, quartiles, saved_shares, time_ms
from stc_lab.bench.sizes import Slice
from stc_lab.cachers import Cacher, Encoded, FrameTrace, NoCacher
from stc_lab.measure.flops import vision_flops
from stc_lab.measure.timer import StageTimer
from stc_lab.vision.tower import TowerFacts

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "convolution")


def split_ms(device: torch.device, work: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds of ``work``, and of the matrix products in it, attention as a whole among them.

    Each product is timed on its own. That slows down what is between them by some microseconds per operation, and on
    a GPU a product includes its launch where the device has nothing else to do.
    """
    clock = _ProductClock(device)
    with clock:
        total_ms = time_ms(device, work)
    return total_ms, clock.timer.drain().get("products", 0.0)


class _ProductClock(TorchDispatchMode):
    """Sends every operation on its way, products with a stopwatch."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.timer = StageTimer(device)

    def __torch_dispatch__(
        self, func: OpOverload, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if not is_product(func.overloadpacket.__name__):
            return func(*args, **(kwargs or {}))
        with self.timer.stage("products"):
            return func(*args, **(kwargs or {}))


def is_product(operation: str) -> bool:
    """Whether an operation, by its name in ATen, is a matrix product or attention as a whole."""
    return operation in PRODUCTS or "attention" in operation


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
        """The method's own work on a frame that is not computed in full, for all layers; ``None`` without one."""
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


MIN_REPEATS = 2


@torch.inference_mode()
def vision_rows(
    slices: Sequence[Slice],
    cachers: Mapping[str, Cacher],
    *,
    device: torch.device,
    sizes: str,
    num_frames: int,
    repeats: int,
    limit_s: float | None,
) -> list[Row]:
    """One row per cacher. In a repeat every method takes ``num_frames`` frames of its own endless stream.

    The order of the methods rotates from repeat to repeat; every cacher is paired with the plain tower of the
    same repeat. Only the blocks are timed: embedding is the same for all and weighs more in a shortened tower. Methods
    that merge tokens in the tower are left out where it cannot do without their places.
    """
    # 1. Every method has a stream of its own on the same frames.
    usable = {n: c for n, c in cachers.items() if all(s.tower.can_merge for s in slices) or not c.merges_in_tower}
    parts = [(part, _frames(part.tower.facts, num_frames)) for part in slices]
    embedded = [(part, part.tower.embed(pixels.to(device))) for part, pixels in parts]
    runs = {name: MethodRun(cacher, embedded) for name, cacher in {"none": NoCacher(), **usable}.items()}
    # 2. Warm-up: kernels are chosen, and every stream has its first reference frame.
    for run in runs.values():
        run.step_ms(device)
    times: dict[str, list[float]] = {name: [] for name in runs}
    deadline = Deadline(limit_s)
    for repeat in range(repeats):
        if repeat >= MIN_REPEATS and deadline.has_passed():
            break
        # 3. All methods in turn, in another order each time: what disturbs the machine disturbs all.
        for name in _rotated(list(runs), repeat):
            times[name].append(runs[name].step_ms(device) / num_frames)
    # 4. The method's own work, apart, since taking its time slows it down.
    shape = _shape(slices, sizes)
    rows = {name: _row(name, runs[name], times["none"], times[name], num_frames, shape) for name in usable}
    return [_with_overhead(row, runs[name].overhead_ms(device)) for name, row in rows.items()]


def _row(name: str, run: MethodRun, plain_ms: list[float], own_ms: list[float], num_frames: int, shape: dict) -> Row:
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
    return row if own_ms is None else replace(row, overhead_ms=own_ms, overhead_share=own_ms / row.uncompressed_ms)


def _shape(slices: Sequence[Slice], sizes: str) -> dict[str, object]:
    return {
        "sizes": sizes,
        "num_layers": sum(part.tower.facts.num_layers for part in slices),
        "full_layers": sum(part.full_layers for part in slices),
        "unit": "pair" if slices[0].tower.facts.patches_per_token > 1 else "frame",
    }


def _frames(facts: TowerFacts, num_frames: int) -> Tensor:
    """Pixels of a still picture with noise; packed patches where a token is a group of them."""
    generator = torch.Generator().manual_seed(0)
    shape = (facts.num_channels, facts.image_size, facts.image_size)
    if facts.patches_per_token > 1:
        shape = (facts.patches_per_token * facts.num_tokens, facts.num_channels * facts.patch_size**2)
    still = torch.randn(shape, generator=generator)
    return still + 0.1 * torch.randn(num_frames, *shape, generator=generator)


def _rotated(names: list[str], by: int) -> list[str]:
    by %= len(names)
    return names[by:] + names[:by]

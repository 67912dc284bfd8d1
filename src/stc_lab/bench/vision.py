"""Time of the vision tower per frame, for several cachers against none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from stc_lab.bench.rows import Row, median, quartiles, saved_shares
from stc_lab.bench.stopwatch import Deadline
from stc_lab.bench.tower_runs import MethodRun
from stc_lab.bench.towers import Slice
from stc_lab.cachers import Cacher, NoCacher
from stc_lab.vision.tower import TowerFacts

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
    usable = {n: c for n, c in cachers.items() if all(s.tower.can_merge for s in slices) or not c.merges_in_tower}
    parts = [(part, _frames(part.tower.facts, num_frames)) for part in slices]
    embedded = [(part, part.tower.embed(pixels.to(device))) for part, pixels in parts]
    runs = {name: MethodRun(cacher, embedded) for name, cacher in {"none": NoCacher(), **usable}.items()}
    for run in runs.values():
        run.step_ms(device)
    times: dict[str, list[float]] = {name: [] for name in runs}
    deadline = Deadline(limit_s)
    for repeat in range(repeats):
        if repeat >= MIN_REPEATS and deadline.has_passed():
            break
        for name in _rotated(list(runs), repeat):
            times[name].append(runs[name].step_ms(device) / num_frames)
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

"""Rows of a step: every way of taking it against the uncompressed one, in alternation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stc_lab.bench.rows import Row, median, quartiles, saved_shares
from stc_lab.bench.steps.lane import Cost, Lane
from stc_lab.bench.stopwatch import Deadline

MIN_REPEATS = 2
NONE = "none"


@dataclass(frozen=True)
class Part:
    """What a row says about its step besides numbers; ``unit``: what a time is of."""

    part: str
    unit: str
    sizes: str
    num_layers: int
    full_layers: int

    @property
    def depth(self) -> float:
        """Layers that each layer that was run stands for."""
        return self.full_layers / self.num_layers


def step_rows(part: Part, lanes: Mapping[str, Lane], repeats: int, limit_s: float | None) -> list[Row]:
    """One row per lane but ``none``, with which the others are compared; one row alone if there is no other.

    The order rotates from repeat to repeat; medians, quartiles over the pairs of a repeat. ``limit_s`` ends it early.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in lanes}
    deadline = Deadline(limit_s)
    for repeat in range(repeats):
        if repeat >= MIN_REPEATS and deadline.has_passed():
            break
        names = list(lanes)
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            costs[name].append(lanes[name].step())
    others = [name for name in lanes if name != NONE]
    return [_row(part, name, lanes, costs) for name in others] if others else [_alone(part, lanes[NONE], costs[NONE])]


def _row(part: Part, name: str, lanes: Mapping[str, Lane], costs: Mapping[str, list[Cost]]) -> Row:
    depth = part.depth
    before, after = ([cost.total_ms(depth) for cost in costs[lane]] for lane in (NONE, name))
    full, own = (sum(cost.flops(depth) for cost in costs[lane]) for lane in (NONE, name))
    prune_ms = [cost.prune_ms for cost in costs[name]]
    saving_ms = sum(before) - sum(after) + sum(prune_ms)
    saved = saved_shares(before, after)
    return Row(
        part=part.part,
        unit=part.unit,
        sizes=part.sizes,
        method=name,
        setting=lanes[name].setting,
        num_layers=part.num_layers,
        full_layers=part.full_layers,
        uncompressed_ms=median(before),
        compressed_ms=median(after),
        saved=median(saved),
        saved_quartiles=quartiles(saved),
        bound=1 - own / full,
        num_pairs=len(after),
        num_frames=len(after),
        overhead_ms=median(prune_ms),
        overhead_share=sum(prune_ms) / saving_ms if saving_ms > 0 else None,
        tokens=(lanes[NONE].num_tokens, lanes[name].num_tokens),
    )


def _alone(part: Part, lane: Lane, costs: list[Cost]) -> Row:
    """A step that no method changes."""
    times = [cost.total_ms(part.depth) for cost in costs]
    return Row(
        part=part.part,
        unit=part.unit,
        sizes=part.sizes,
        method=NONE,
        setting=lane.setting,
        num_layers=part.num_layers,
        full_layers=part.full_layers,
        uncompressed_ms=median(times),
        num_pairs=len(times),
        num_frames=len(times),
        tokens=(lane.num_tokens, lane.num_tokens),
    )

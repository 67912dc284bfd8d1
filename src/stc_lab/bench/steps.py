"""Steps of a backbone other than ReKV, pruned against unpruned: costs, and their rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stc_lab.bench.rows import Deadline, Row, median, quartiles, saved_shares
from stc_lab.language import TextDecoder
from stc_lab.language.caches.base import KVStore, Step
from stc_lab.measure.timer import StageTimer


@dataclass(frozen=True)
class Cost:
    """Milliseconds and FLOPs of a step: of the decoder layers that were run, of what is there once, of pruning."""

    layers_ms: float
    once_ms: float = 0.0
    prune_ms: float = 0.0
    layers_flops: int = 0
    once_flops: int = 0

    def total_ms(self, depth: float) -> float:
        """With ``depth`` layers for each that was run."""
        return depth * self.layers_ms + self.once_ms + self.prune_ms

    def flops(self, depth: float) -> float:
        """FLOPs likewise."""
        return depth * self.layers_flops + self.once_flops


class Lane(ABC):
    """``num_tokens``: visual tokens of a frame that go into the step; ``setting``: for the record."""

    num_tokens: int
    setting: str = ""

    def __init__(self, device: torch.device) -> None:
        self._timer = StageTimer(device)

    @abstractmethod
    def step(self) -> Cost:
        """The next step."""

    def _stage(self, name: str) -> AbstractContextManager[None]:
        """Time under ``layers``, ``once`` or ``prune``."""
        return self._timer.stage(name)

    def _cost(self, layers_flops: int = 0, once_flops: int = 0, share: int = 1) -> Cost:
        """What was timed since the last call, a ``share``-th of it."""
        times = self._timer.drain()
        parts = (times.get(name, 0.0) / share for name in ("layers", "once", "prune"))
        return Cost(*parts, layers_flops // share, once_flops // share)


class TimedDecoder:
    """A decoder whose layers count as ``layers`` inside any other stage of ``timer``."""

    def __init__(self, decoder: TextDecoder, timer: StageTimer) -> None:
        self._decoder, self._timer = decoder, timer
        self.sizes, self.shape, self.device = decoder.sizes, decoder.shape, decoder.device
        self.embed, self.logits = decoder.embed, decoder.logits

    def __call__(self, embeds: Tensor, store: KVStore, positions: Tensor | None = None, **more: Any) -> Tensor:
        with self._timer.attribute_to("layers"):
            return self._decoder(embeds, store, positions, **more)


class FillingDecoder:
    """Fills a store with random keys and values, without the layers: only sizes matter to what comes later."""

    def __init__(self, decoder: TextDecoder) -> None:
        self.sizes, self.shape, self.device = decoder.sizes, decoder.shape, decoder.device
        self.embed, self.logits = decoder.embed, decoder.logits

    def __call__(self, embeds: Tensor, store: KVStore, positions: Tensor | None = None, **more: Any) -> Tensor:
        """Returns ``embeds``. One query head per key head: the least a store takes."""
        store.begin(Step((len(embeds),), positions))
        shape = self.shape
        rows = torch.randn(len(embeds), shape.num_kv_heads, shape.head_dim, device=embeds.device, dtype=embeds.dtype)
        for layer in range(shape.num_layers):
            store.attend(layer, rows, rows, rows)
        return embeds


def random_tokens(index: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Tokens of frame ``index`` of a still picture with noise, in the type and on the device of ``like``."""
    static, noise = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in (0, index + 1))
    return (static + 0.3 * noise).to(like.device, like.dtype)


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
        # Another order in every repeat.
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
    # What pruning saves, its own time apart.
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

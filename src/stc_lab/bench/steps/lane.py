"""One way through a step, again and again, and what it costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

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

    def __call__(
        self, embeds: Tensor, store: KVStore, positions: Tensor | None = None, lengths: Sequence[int] | None = None
    ) -> Tensor:
        """See :class:`TextDecoder`."""
        with self._timer.attribute_to("layers"):
            return self._decoder(embeds, store, positions, lengths)


class FillingDecoder:
    """Fills a store with random keys and values, without the layers: only sizes matter to what comes later."""

    def __init__(self, decoder: TextDecoder) -> None:
        self.sizes, self.shape, self.device = decoder.sizes, decoder.shape, decoder.device
        self.embed, self.logits = decoder.embed, decoder.logits

    def __call__(
        self, embeds: Tensor, store: KVStore, positions: Tensor | None = None, lengths: Sequence[int] | None = None
    ) -> Tensor:
        """See :class:`TextDecoder`; returns ``embeds``. One query head per key head: the least a store takes."""
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

"""Persistent event memory forest: events of the past, the least worth keeping apart merged first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

import torch
from torch import Tensor

from stc_lab.backbones.streamforest.settings import MemorySettings
from stc_lab.backbones.streamforest.tome import mean_match, merge_flops, merge_tokens


@dataclass(frozen=True)
class Event:
    """A tree: ``tokens`` [n, event tokens, C], n its size in frames after merging; ``frames`` it was made of.

    ``time``: index of its centre in the stream; ``num_leaves``: events as they were cut off that it consists of.
    """

    tokens: Tensor
    frames: range
    time: float
    num_leaves: int = 1

    @property
    def size(self) -> int:
        """Size in frames after merging."""
        return len(self.tokens)


class EventForest:
    """Events in time order; ``similarities``: of each to the one after it."""

    def __init__(self, settings: MemorySettings, num_heads: int) -> None:
        self._settings, self._num_heads = settings, num_heads
        self.events: list[Event] = []
        self.similarities: list[float] = []

    @property
    def num_tokens(self) -> int:
        """Tokens of all events."""
        return sum(event.size for event in self.events) * self._settings.event_tokens

    @property
    def num_frames(self) -> int:
        """Frames of the stream that the events cover, from its start."""
        return self.events[-1].frames.stop if self.events else 0

    def copy(self) -> EventForest:
        """One that can be merged further while this one stays as it is; events are shared."""
        copied = EventForest(self._settings, self._num_heads)
        copied.events, copied.similarities = list(self.events), list(self.similarities)
        return copied

    def add(self, frames: Tensor) -> int:
        """Append the next frames [n, short tokens, C] as an event; returns the FLOPs of merging their tokens."""
        start, size = self.num_frames, len(frames)
        tokens, flops = self._merged(frames.flatten(0, 1), size)
        self.events.append(Event(tokens, range(start, start + size), start + (size - 1) / 2))
        if len(self.events) > 1:
            self.similarities.append(self._similarity(len(self.events) - 2))
        return flops

    def shrink(self, newest: int) -> int:
        """Merge until the quota is met or one event is left; ``newest``: index of the stream's newest frame.

        Returns the FLOPs of merging.
        """
        flops = 0
        while self.num_tokens > self._settings.quota and len(self.events) > 1:
            flops += self.merge(int(self.penalties(newest).argmin()))
        return flops

    def penalties(self, newest: int) -> Tensor:
        """[E - 1]: what merging each event with the one after it would cost, float32 on the CPU.

        Events that differ, that are recent, and that were merged often already, cost more.
        """
        settings = self._settings
        time = _pair_means([event.time for event in self.events])
        leaves = _pair_means([event.num_leaves for event in self.events])
        merging = leaves / leaves.max()
        if settings.upstream_quirks:
            merging = merging + 1e-6  # the released code adds it after the division: an offset without effect
        unlike = 1 - torch.tensor(self.similarities)
        recency = settings.time_weight * time / newest
        return settings.similarity_weight * unlike + recency + settings.merge_weight * merging

    def merge(self, index: int) -> int:
        """Merge event ``index`` with the one after it; returns the FLOPs."""
        first, second = self.events[index : index + 2]
        both = torch.cat((first.tokens, second.tokens)).flatten(0, 1)
        tokens, flops = self._merged(both, ceil((first.size + second.size) / 2))
        frames = range(first.frames.start, second.frames.stop)
        leaves = first.num_leaves + second.num_leaves
        self.events[index : index + 2] = [Event(tokens, frames, self._mean_time(first, second), leaves)]
        del self.similarities[index]
        for pair in (index - 1, index):
            if 0 <= pair < len(self.similarities):
                self.similarities[pair] = self._similarity(pair)
        return flops

    def _mean_time(self, first: Event, second: Event) -> float:
        """Time of the merged event: the mean of its frames, or of its merged size as in the released code."""
        by_size = self._settings.upstream_quirks
        weights = [event.size if by_size else len(event.frames) for event in (first, second)]
        return (first.time * weights[0] + second.time * weights[1]) / sum(weights)

    def _similarity(self, index: int) -> float:
        """Mean cosine of the matches that merging the events ``index`` and ``index + 1`` would use."""
        tokens = torch.cat([event.tokens for event in self.events[index : index + 2]])
        num_merged = (len(tokens) - ceil(len(tokens) / 2)) * self._settings.event_tokens
        return mean_match(tokens.flatten(0, 1), num_merged, self._num_heads)

    def _merged(self, tokens: Tensor, size: int) -> tuple[Tensor, int]:
        """All tokens [T, C] of an event together -> [size, event tokens, C], and the FLOPs."""
        target = size * self._settings.event_tokens
        merged = merge_tokens(tokens[None], target, self._num_heads)
        flops = merge_flops(len(tokens), target, tokens.shape[1], self._num_heads)
        return merged.view(size, self._settings.event_tokens, -1), flops


def _pair_means(values: Sequence[float]) -> Tensor:
    return torch.tensor([(a + b) / 2 for a, b in pairwise(values)], dtype=torch.float32)

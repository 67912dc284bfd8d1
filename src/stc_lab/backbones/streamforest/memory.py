"""The memory of one stream: window and forest together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stc_lab.backbones.streamforest.forest import EventForest
from stc_lab.backbones.streamforest.settings import MemorySettings
from stc_lab.backbones.streamforest.window import FineWindow


@dataclass(frozen=True)
class MemoryView:
    """What a question gets to see, oldest first: events, window, now; in the space of the tower.

    ``events`` [n, event tokens, C] per event, ``short`` [short tokens, C] and ``now`` [now tokens, C] per frame;
    ``times``: index in the stream for each of them, in that order.
    """

    events: list[Tensor]
    short: list[Tensor]
    now: list[Tensor]
    times: list[float]
    flops: int = 0

    @property
    def tokens(self) -> Tensor:
        """All tokens [N, C] in the order of the prompt."""
        return torch.cat([*(event.flatten(0, 1) for event in self.events), *self.short, *self.now])


class ForestMemory:
    """Frames go in with their positions added; reading it changes nothing.

    ``online``: the events are merged to the quota with every frame, so the memory is bounded. ``lazy``: they wait,
    and each question merges a copy, as the official evaluation does when it builds its memory anew; the result
    differs, since penalties are then computed once, at the end.
    """

    def __init__(self, settings: MemorySettings, num_heads: int) -> None:
        self.settings = settings
        self.window = FineWindow(settings, num_heads)
        self.forest = EventForest(settings, num_heads)

    @property
    def num_frames(self) -> int:
        """Frames pushed so far."""
        return self.forest.num_frames + len(self.window)

    def push(self, frame: Tensor) -> int:
        """Take the next frame [T, C] of the stream; returns the FLOPs of merging."""
        cuts = self.window.push(frame)
        flops = self.window.push_flops(*frame.shape) + sum(self.forest.add(cut.frames) for cut in cuts)
        if self.settings.mode == "online":
            flops += self.forest.shrink(self.num_frames - 1)
        return flops

    def read(self) -> MemoryView:
        """The memory as a question sees it now. Raises ``ValueError`` before the first frame."""
        if not self.num_frames:
            raise ValueError("the memory is empty")
        forest, flops = self.forest, 0
        if self.settings.mode == "lazy":
            forest = forest.copy()
            flops = forest.shrink(self.num_frames - 1)
        times = [event.time for event in forest.events]
        times += [float(index) for index in range(forest.num_frames, self.num_frames)]
        events = [event.tokens for event in forest.events]
        return MemoryView(events, list(self.window.short), list(self.window.now), times, flops)

    @property
    def num_tokens(self) -> int:
        """Tokens kept for questions; in ``lazy`` mode a question sees fewer of the events."""
        window = sum(len(frame) for frame in (*self.window.short, *self.window.now))
        return self.forest.num_tokens + window

    @property
    def num_bytes(self) -> int:
        """Bytes kept on the device: the tokens, and the newest frame where ``now`` does not hold it in full."""
        last = self.window.last_frame
        if last is None:
            return 0
        is_shared = any(last is frame for frame in self.window.now)
        kept = self.num_tokens + (0 if is_shared else len(last))
        return kept * last.shape[1] * last.element_size()

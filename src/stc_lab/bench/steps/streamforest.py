"""StreamForest: a frame is merged into the memory; a question reads the memory, pruned or not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stc_lab.bench.steps.lane import Cost, Lane, random_tokens
from stc_lab.language import TextDecoder
from stc_lab.language.caches.growing import GrowingStore
from stc_lab.measure.flops import decoder_flops, projector_flops
from stc_lab.memories.streamforest import Forest, ForestSizes, ForestView, prune_units, unit_pruner
from stc_lab.pruners import Pruner
from stc_lab.types import VisualTokens

FRAMES_PER_STEP = 8
"""Frames that are merged in one measurement: an event is cut off every few frames only."""
NUM_TEXT = 60
"""Tokens of a question with its options and the words around the video."""


class FrameStream:
    """A memory that is full, and random features of the tower to go on with."""

    def __init__(self, settings: ForestSizes, shape: tuple[int, int], num_heads: int, like: Tensor) -> None:
        self.memory = Forest(settings, num_heads)
        self._shape, self._like = shape, like
        frames_in_events = settings.quota // settings.event_tokens
        for _ in range(frames_in_events + settings.short_frames + 2 * settings.split_window):
            self.memory.push(self.frame())

    def frame(self) -> Tensor:
        """Features [T, C] of the next frame."""
        return random_tokens(self.memory.num_frames, self._shape, self._like)


class MergeLane(Lane):
    """Frames into the memory: no language model, and no pruner."""

    def __init__(self, stream: FrameStream, num_tokens: int, device: torch.device) -> None:
        super().__init__(device)
        self._stream, self.num_tokens = stream, num_tokens

    def step(self) -> Cost:
        """Some frames; the cost of one."""
        for _ in range(FRAMES_PER_STEP):
            frame = self._stream.frame()
            with self._stage("once"):
                self._stream.memory.push(frame)
        return self._cost(share=FRAMES_PER_STEP)


class QuestionLane(Lane):
    """The whole memory through the projector and, pruned or not, through the language model."""

    def __init__(self, stream: FrameStream, pruner: Pruner | None, projector: nn.Module, decoder: TextDecoder) -> None:
        super().__init__(decoder.device)
        self._memory, self._projector, self._decoder = stream.memory, projector, decoder
        settings = stream.memory.sizes
        self._pruner = None if pruner is None else unit_pruner(pruner, settings)
        self.num_tokens = settings.short_tokens if pruner is None else pruner.num_kept(settings.short_tokens)
        self.setting = repr(pruner)

    def step(self) -> Cost:
        """One question."""
        with self._stage("once"):
            view = self._memory.read()
            tokens = view.tokens
            projected = self._projector(tokens)
        if self._pruner is not None:
            with self._stage("prune"):
                units, _ = prune_units(self._pruner, _units(view, projected))
                projected = torch.cat([unit.tokens for unit in units])
        with self._stage("layers"):
            embeds = torch.cat((self._decoder.embed([0] * NUM_TEXT), projected))
            self._decoder(embeds, GrowingStore(self._decoder.shape))
        flops = projector_flops(*tokens.shape, projected.shape[1])
        return self._cost(decoder_flops(self._decoder.sizes, len(embeds)), flops)


def _units(view: ForestView, projected: Tensor) -> list[list[VisualTokens]]:
    """Shares of events, frames of the window, newest frames."""
    groups = view.unit_sizes
    parts = projected.split([sum(group) for group in groups])
    return [
        [VisualTokens.full(unit, (1, len(unit)), 0.0) for unit in part.split(group)]
        for part, group in zip(parts, groups, strict=True)
    ]

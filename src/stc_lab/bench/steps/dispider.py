"""Dispider: the small model reads every clip, the large one some clips per question."""

from __future__ import annotations

import torch
from torch import nn

from stc_lab.backbones.dispider.compressor import Compressor
from stc_lab.bench.steps.lane import Cost, Lane, TimedDecoder, random_tokens
from stc_lab.language import TextDecoder
from stc_lab.language.caches.growing import GrowingStore
from stc_lab.measure.flops import decoder_flops, projector_flops
from stc_lab.memories.dispider import ClipFrame
from stc_lab.pruners import NoPruner, Pruner
from stc_lab.types import VisualTokens

CLIP_FRAMES, TOPK = 16, 4
NUM_TIME_TEXT, NUM_TEXT = 12, 80
"""Tokens of a clip's time, and of a question with its options and the words around the video."""


class PerceptionLane(Lane):
    """Clips through the compressor, time per frame. A pruner leaves tokens out of its input too."""

    def __init__(
        self, pruner: Pruner | None, projector: nn.Sequential, decoder: TextDecoder, grid: tuple[int, int], width: int
    ) -> None:
        super().__init__(decoder.device)
        self._pruner, self._grid, self._width = pruner or NoPruner(), grid, width
        self._state = self._pruner.new_state()
        self._projector, self._decoder = projector, decoder
        self._num_frames = 0
        self.num_tokens = self._pruner.num_kept(grid[0] * grid[1])
        self.setting = f"{self._pruner!r}, prune_compressor" if pruner else ""
        timed = TimedDecoder(decoder, self._timer)
        self._compressor = Compressor(timed, lambda text: [0] * NUM_TIME_TEXT, projector)
        self._prunes = pruner is not None

    def step(self) -> Cost:
        """One clip; the cost of one of its frames."""
        like, num_tokens = self._decoder.embed([0]), self._grid[0] * self._grid[1]
        shape = (num_tokens, self._projector[0].in_features)
        indices = range(self._num_frames, self._num_frames + CLIP_FRAMES)
        mixed = [random_tokens(index, shape, like) for index in indices]
        read = [random_tokens(index, (num_tokens, self._width), like) for index in indices]
        self._num_frames += CLIP_FRAMES
        visual = [VisualTokens.full(tokens, self._grid, 0.0) for tokens in read]
        with self._stage("prune"):
            kept = self._pruner.compress(visual, self._state)
        with self._stage("once"):
            frames = [ClipFrame(*frame) for frame in zip(mixed, kept, strict=True)]
            self._compressor.perceive(frames, prune=self._prunes)
        num_visual = CLIP_FRAMES * (self.num_tokens + 1) + 1
        project = projector_flops(num_visual, shape[1], self._decoder.sizes.hidden_size)
        return self._cost(decoder_flops(self._decoder.sizes, NUM_TIME_TEXT + num_visual), project, CLIP_FRAMES)


class ReactionLane(Lane):
    """A question: tokens and memories of the chosen clips, a summary of all ``num_clips``, text."""

    def __init__(self, pruner: Pruner | None, decoder: TextDecoder, num_tokens: int, num_clips: int) -> None:
        super().__init__(decoder.device)
        self._decoder = decoder
        self.num_tokens = num_tokens if pruner is None else pruner.num_kept(num_tokens)
        self.setting = repr(pruner)
        self._num_read = min(TOPK, num_clips) * CLIP_FRAMES * (self.num_tokens + 1) + num_clips + NUM_TEXT

    def step(self) -> Cost:
        """One question, up to its first answer token."""
        like = self._decoder.embed([0])
        embeds = torch.randn(self._num_read, like.shape[1], device=like.device, dtype=like.dtype)
        with self._stage("layers"):
            self._decoder(embeds, GrowingStore(self._decoder.shape))
        return self._cost(decoder_flops(self._decoder.sizes, self._num_read))

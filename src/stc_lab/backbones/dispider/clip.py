"""Clips: what is kept of one, and where one ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from stc_lab.language.caches.base import tensor_bytes
from stc_lab.types import VisualTokens


@dataclass(frozen=True)
class ClipFrame:
    """A frame on its way into a clip: all tokens of four patches [N, 4C], and those for the language model."""

    mixed: Tensor
    kept: VisualTokens

    @property
    def time_s(self) -> float:
        """Stream time."""
        return self.kept.timestamp_s


@dataclass(frozen=True)
class Clip:
    """All that questions need of a clip; never changed, so that it can be handed to another thread.

    ``tokens`` [T, H] for the language model; ``memory`` [frames * pool_num, C] and ``indicator`` [C]: states of the
    compressor. ``start_s`` and ``end_s``: what the compressor was told.
    """

    start_s: float
    end_s: float
    num_frames: int
    tokens: Tensor
    memory: Tensor
    indicator: Tensor

    def offloaded(self) -> Clip:
        """With the tokens in host memory: only a few clips are read for a question."""
        return replace(self, tokens=self.tokens.to("cpu"))

    @property
    def token_bytes(self) -> int:
        """Bytes of the tokens for the language model."""
        return tensor_bytes(self.tokens)

    @property
    def state_bytes(self) -> int:
        """Bytes of the compressor's states."""
        return tensor_bytes(self.memory, self.indicator)


def time_span(frames: Sequence[ClipFrame]) -> tuple[float, float]:
    """Start and end of a clip in seconds; the last frame lasts as long as the frames stand apart."""
    start, last = frames[0].time_s, frames[-1].time_s
    return start, last + (last - start) / max(1, len(frames) - 1)


@dataclass(frozen=True)
class ClipBorders:
    """Says where clips end: after ``clip_frames``, and, with ``scene_threshold`` set, where the scene changes.

    A scene changes where the cosine of the mean features of neighbouring frames falls below the threshold; a clip
    has at least ``min_frames`` by then (the exclusion window of the paper, section 3.2; there with SigLIP features,
    here with those of the model's own tower). The released code has uniform clips only.
    """

    clip_frames: int
    scene_threshold: float | None = None
    min_frames: int = 1

    def is_full(self, frames: Sequence[ClipFrame]) -> bool:
        """Whether the clip is complete as it stands."""
        return len(frames) >= self.clip_frames

    def starts_new(self, frames: Sequence[ClipFrame], mixed: Tensor) -> bool:
        """Whether a frame with tokens ``mixed`` [N, 4C] shows another scene than the clip ``frames``."""
        if self.scene_threshold is None or len(frames) < max(1, self.min_frames):
            return False
        means = torch.stack((frames[-1].mixed.float().mean(0), mixed.float().mean(0)))
        return bool(cosine_similarity(means[0], means[1], dim=0) < self.scene_threshold)

"""``memory=oneshot``: the clip so far in one prompt, for every question again, as offline evaluations read a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from stc_lab.language.caches.base import tensor_bytes
from stc_lab.language.caches.growing import GrowingStore
from stc_lab.language.context import Context
from stc_lab.measure import StageTimer
from stc_lab.memories.base import Memory, MemoryState, Model, PruneOnRead, Query, Reading
from stc_lab.types import VisualTokens


@dataclass(frozen=True, kw_only=True)
class OneShot(Memory):
    """Keeps the visual tokens of all frames; a question reads those of at most ``max_frames`` video frames, evenly
    spread over the stream so far."""

    name: str = "oneshot"
    max_frames: int = 480

    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        if self.max_frames < 2:
            raise ValueError(f"memory.max_frames={self.max_frames}: must be at least 2, a temporal patch")

    def open(self, model: Model, timer: StageTimer) -> OneShotState:
        return OneShotState(self, model)


class OneShotState(MemoryState):
    """All frames so far, as visual tokens."""

    def __init__(self, settings: OneShot, model: Model) -> None:
        self._model = model
        self._max_frames = settings.max_frames // model.facts.frames_per_patch
        self.frames: list[VisualTokens] = []

    def remember(self, frames: Sequence[VisualTokens]) -> list[int]:
        self.frames += [frame.owned() for frame in frames]
        return [0] * len(frames)

    def read(self, query: Query, waiting: Sequence[VisualTokens], prune: PruneOnRead) -> Reading:
        frames = self._spread([*self.frames, *waiting])
        layout, segments = self._model.layout, self._model.layout.opening()
        if frames:
            segments = [*segments, *layout.frames(frames), *layout.closing()]
        context = Context(self._model, GrowingStore(self._model.decoder.shape))
        return Reading(context, segments, details={"num_context_tokens": 0, "num_frames_used": len(frames)})

    def stats(self) -> dict[str, int]:
        """``num_tokens``: visual tokens kept; ``token_bytes_device``: their bytes."""
        return {
            "num_tokens": sum(frame.num_tokens for frame in self.frames),
            "kv_bytes_device": 0,
            "kv_bytes_host": 0,
            "token_bytes_device": sum(tensor_bytes(frame.tokens, frame.per_layer) for frame in self.frames),
        }

    def close(self) -> None:
        self.frames = []

    def _spread(self, frames: list[VisualTokens]) -> list[VisualTokens]:
        if len(frames) <= self._max_frames:
            return frames
        chosen = torch.linspace(0, len(frames) - 1, self._max_frames, dtype=torch.double).round().long()
        return [frames[index] for index in chosen.tolist()]

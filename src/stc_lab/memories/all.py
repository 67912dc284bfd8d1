"""``memory=all``: everything that was seen, in a cache that only grows: the uncompressed reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from stc_lab.language.caches.growing import GrowingStore
from stc_lab.language.context import Context
from stc_lab.measure import StageTimer
from stc_lab.measure.flops import decoder_flops
from stc_lab.memories.base import Memory, MemoryState, Model, PruneOnRead, Query, Reading
from stc_lab.types import VisualTokens


@dataclass(frozen=True, kw_only=True)
class All(Memory):
    """One growing video in one growing prompt, as the model's own ``generate`` would read it.

    It stops at the positions the model was trained on (less ``reserve`` for a question and its answer): frames after
    that are not taken in, and questions from then on are recorded with the reason.
    """

    name: str = "all"
    reserve: int = 512

    needs: ClassVar[frozenset[str]] = frozenset({"kv"})

    def __post_init__(self) -> None:
        if self.reserve < 0:
            raise ValueError(f"memory.reserve={self.reserve}: must be 0 or more positions")

    def open(self, model: Model, timer: StageTimer) -> AllState:
        return AllState(self, model, timer)


class AllState(MemoryState):
    """The prompt so far, read once; a question is read behind it and forgotten again."""

    def __init__(self, settings: All, model: Model, timer: StageTimer) -> None:
        self._settings, self._model, self._timer = settings, model, timer
        self.store = GrowingStore(model.decoder.shape)
        self.context = Context(model, self.store)
        self.context.extend(model.layout.opening())
        self.num_frames = 0
        self.full_since_s: float | None = None

    def remember(self, frames: Sequence[VisualTokens]) -> list[int]:
        return [self._take(frame) for frame in frames]

    def read(self, query: Query, waiting: Sequence[VisualTokens], prune: PruneOnRead) -> Reading:
        mark, before = self.context.mark(), (self.num_frames, self.full_since_s)
        if waiting:
            with self._timer.stage("prefill"):
                prefill = sum(self.remember(waiting))
        full_since_s = self.full_since_s

        def release() -> None:
            self.context.rewind(mark)
            self.num_frames, self.full_since_s = before

        if full_since_s is not None:
            release()
            raise ValueError(
                f"memory=all: with the frame at {full_since_s:g} s the stream is longer than the "
                f"{self._model.facts.max_positions} positions the model was trained on; lower pruner.budget, or choose "
                "another memory"
            )
        flops = {"prefill": prefill} if waiting else {}
        self.context.flops = 0  # what follows is the question's
        closing = self._model.layout.closing() if self.num_frames else []
        details = {"num_frames_used": self.num_frames, "num_context_tokens": len(self.store)}
        return Reading(
            self.context, closing, [self.context.num_visual], flops=flops, details=details, release=release
        )

    def stats(self) -> dict[str, int]:
        """``num_tokens``: visual tokens in the cache; ``num_blocks``: frames they came from."""
        return {
            "num_tokens": self.context.num_visual,
            "num_blocks": self.num_frames,
            "kv_bytes_device": self.store.num_bytes,
            "kv_bytes_host": 0,
            "kv_bytes_reserved": self.store.reserved_bytes,
        }

    def close(self) -> None:
        self.store = self.context = None

    def _take(self, frame: VisualTokens) -> int:
        """The next frame, if it still fits; the FLOPs of reading it."""
        if self.full_since_s is not None:
            return 0
        segments = self._model.layout.frames([frame], continues=self.num_frames > 0)
        sequence = self._model.sequence(segments, self.context.cursor)
        num_before, limit = len(self.store), self._model.facts.max_positions
        position = num_before + len(sequence) if sequence.positions is None else sequence.cursor.position
        if limit is not None and position + self._settings.reserve > limit:
            self.full_since_s = frame.timestamp_s
            return 0
        if len(sequence):
            self.context.extend(segments)
        self.num_frames += 1
        return decoder_flops(self._model.decoder.sizes, len(sequence), num_before)

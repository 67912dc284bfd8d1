"""What memories that speak about the stream share: settings of comments, the lines said, silence told from speech."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch

from stc_lab.language.caches.growing import EvictingStore, GrowingStore
from stc_lab.language.context import Generated, SamplingParams
from stc_lab.measure import StageTimer
from stc_lab.memories.base import Memory, MemoryState, Model, require_at_least_one
from stc_lab.types import TimedText, VisualTokens


class SpeakingModel(Model, Protocol):
    """A model trained to speak while it watches: ``silence_id`` says nothing, ``end_of_turn_id`` ends a turn."""

    silence_id: int
    end_of_turn_id: int
    placeholder_id: int
    axes: Any


@dataclass(frozen=True, kw_only=True)
class SpeakingMemory(Memory):
    """Settings of comments. ``query``: what the viewer asks for in the first turn; ``commentary=False``: stay silent
    and only answer; ``commentary_tokens``: longest comment; ``repetition_penalty``, ``temperature``, ``seed``: of
    comments; ``upstream_quirks``: as the released code."""

    query: str = ""
    commentary: bool = True
    commentary_tokens: int = 16
    repetition_penalty: float = 1.05
    temperature: float = 0.0
    seed: int = 0
    upstream_quirks: bool = False

    needs: ClassVar[frozenset[str]] = frozenset({"kv", "turns"})

    def __post_init__(self) -> None:
        require_at_least_one("memory", self, ("commentary_tokens",))
        if not self.repetition_penalty > 0:
            raise ValueError(f"memory.repetition_penalty={self.repetition_penalty}: must be above 0 (1: none)")
        if not self.temperature >= 0:
            raise ValueError(f"memory.temperature={self.temperature}: must be 0 (greedy) or more")


class SpeakingState(MemoryState):
    """``waiting``: temporal patches that do not make a whole turn yet; after each whole turn something may be said."""

    def __init__(self, settings: SpeakingMemory, model: SpeakingModel, timer: StageTimer) -> None:
        self.settings, self.waiting = settings, []
        self.last_generated: Generated | None = None
        self.model, self.timer = model, timer
        self.generator = torch.Generator().manual_seed(settings.seed)
        self._lines: list[TimedText] = []
        self._line_flops = 0

    @abstractmethod
    def is_turn(self) -> bool:
        """Whether what waits makes a whole turn."""

    @abstractmethod
    def take_turn(self) -> int:
        """Show what waits, and speak. Returns the FLOPs of reading it."""

    def remember(self, frames: Sequence[VisualTokens]) -> list[int]:
        flops = []
        for frame in frames:
            self.waiting.append(frame)
            # Patches that wait for their turn cost nothing yet.
            flops.append(self.take_turn() if self.is_turn() else 0)
        return flops

    def finish(self) -> None:
        if self.waiting:
            self.take_turn()

    def events(self) -> tuple[list[TimedText], int]:
        lines, flops = self._lines, self._line_flops
        self._lines, self._line_flops = [], 0
        return lines, flops

    def sampling(self, **more: Any) -> SamplingParams:
        """How comments are sampled."""
        settings = self.settings
        return SamplingParams(settings.repetition_penalty, settings.temperature, **more)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end a comment: the official loop ends one at the end of the turn alone."""
        stops = self.model.stop_ids
        return stops if self.settings.upstream_quirks else stops | {self.model.silence_id}

    def note(self, frames: Sequence[VisualTokens], generated: Generated, flops: int) -> None:
        """Keep a comment on ``frames`` until it is taken."""
        # Silence is a token of its own, and no word.
        text = self.model.text([token for token in generated.ids if token != self.model.silence_id])
        self._lines.append(TimedText(frames[0].start_s, frames[-1].stop_s, text))
        self._line_flops += flops
        self.last_generated = generated


def store_stats(store: GrowingStore | EvictingStore) -> dict[str, int]:
    """Sizes of a cache on the device."""
    return {
        "num_tokens": len(store),
        "kv_bytes_device": store.num_bytes,
        "kv_bytes_host": 0,
        "kv_bytes_reserved": store.reserved_bytes,
    }

"""``memory=livecc``: one turn of a conversation per second of video, in a cache that only grows (arXiv:2504.16030)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from stc_lab.language.caches.growing import GrowingStore
from stc_lab.language.chat import ASSISTANT, CLOSE, SYSTEM, USER, VISION_END, VISION_START, time_text
from stc_lab.language.context import Context, generate
from stc_lab.language.sequence import Clip, Segment, Text, TimeRowColumn
from stc_lab.measure import StageTimer
from stc_lab.memories.base import PruneOnRead, Query, Reading
from stc_lab.memories.commentary import SpeakingMemory, SpeakingModel, SpeakingState, store_stats
from stc_lab.types import VisualTokens

POSITIONS = ("official", "3d")
FIRST_TURN = 3
"""Temporal patches of the first turn (6 frames); every later turn has one (2 frames)."""


@dataclass(frozen=True, kw_only=True)
class LiveCC(SpeakingMemory):
    """Turns of the user show seconds, turns of the model say something about them, or nothing (`` ...``).

    ``positions=official``: the first turn has three-axis positions, later ones count on in one dimension, clips
    included, as the model was trained; ``3d`` places all clips on three axes. ``remember_questions``: questions and
    answers become turns of the conversation, as in the official demo; otherwise they leave no trace.
    ``silence_threshold``: suppress `` ...`` up to this probability, plus ``silence_step`` per token said.
    """

    name: str = "livecc"
    query: str = "Please describe the video."
    positions: Literal["official", "3d"] = "official"
    remember_questions: bool = False
    silence_threshold: float | None = None
    silence_step: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.positions not in POSITIONS:
            raise ValueError(f"memory.positions={self.positions}: must be one of {', '.join(POSITIONS)}")
        if self.silence_threshold is not None and not 0.0 <= self.silence_threshold <= 1.0:
            raise ValueError(f"memory.silence_threshold={self.silence_threshold}: must lie in [0, 1], or null")

    @property
    def changes_stream(self) -> bool:
        return self.remember_questions

    def open(self, model: SpeakingModel, timer: StageTimer) -> LiveCCState:
        return LiveCCState(self, model, timer)


class LiveCCState(SpeakingState):
    """The conversation so far, as the decoder has read it.

    ``pending_ids``: tokens that were generated and not read yet; they are read with the next turn. With
    ``upstream_quirks`` they are lost, as in the released code.
    """

    settings: LiveCC

    def __init__(self, settings: LiveCC, model: SpeakingModel, timer: StageTimer) -> None:
        super().__init__(settings, model, timer)
        self.context = Context(model, GrowingStore(model.decoder.shape))
        self.pending_ids: list[int] = []
        self._num_turns = 0
        self._message = settings.query

    def tell(self, message: str) -> None:
        self._message = message

    def read(self, query: Query, waiting: Sequence[VisualTokens], prune: PruneOnRead) -> Reading:
        """The question is a turn of its own, with the frames that have not been shown yet."""
        # A turn of its own behind the conversation; the mark takes it back.
        mark, num_waiting = self.context.mark(), len(self.waiting)
        self.context.axes = self._axes()
        segments = self._turn([*self.waiting, *waiting])

        def release() -> None:
            self.context.rewind(mark)

        def commit(ids: list[int]) -> None:
            self.waiting = self.waiting[num_waiting:]
            self._num_turns += 1
            self._keep_pending(ids)

        remembers = self.settings.remember_questions
        return Reading(
            self.context,
            segments,
            details={"num_context_tokens": self.context.store.num_context},
            release=None if remembers else release,
            commit=commit if remembers else None,
        )

    def stats(self) -> dict[str, int]:
        """``num_tokens`` in the cache, words included; ``num_turns``."""
        return store_stats(self.context.store) | {"num_turns": self._num_turns}

    def close(self) -> None:
        self.context = None

    def is_turn(self) -> bool:
        return self._num_turns > 0 or len(self.waiting) == FIRST_TURN

    def take_turn(self) -> int:
        # 1. The user shows a second, with what is new to be told.
        frames, self.waiting = self.waiting, []
        message, self._message = self._message, ""
        self.context.axes, flops_before = self._axes(), self.context.flops
        logits = self.context.read([*self._turn(frames), Text(f"{message}{CLOSE}{ASSISTANT}")])
        flops = self.context.flops - flops_before
        self.pending_ids = []
        self._num_turns += 1
        # 2. The model says something about it, or nothing.
        with self.timer.attribute_to("speak"):
            self._comment(logits, frames)
        return flops

    def _comment(self, logits: Tensor, frames: Sequence[VisualTokens]) -> None:
        """Say something about a turn, or stay silent."""
        settings = self.settings
        if not settings.commentary:
            self.pending_ids = [self.model.silence_id]
            return
        sampling = self.sampling(
            silence_threshold=settings.silence_threshold,
            silence_step=settings.silence_step,
            silence_id=self.model.silence_id,
        )
        flops_before = self.context.flops
        generated = generate(
            self.context, logits, settings.commentary_tokens, self.stop_ids, sampling, self.generator
        )
        self.note(frames, generated, self.context.flops - flops_before)
        self._keep_pending(generated.ids)

    def _keep_pending(self, ids: Sequence[int]) -> None:
        """The last token said was not read; an end token is written by the next turn anyway."""
        is_lost = self.settings.upstream_quirks or ids[-1] in self.model.stop_ids
        self.pending_ids = [] if is_lost else [ids[-1]]

    def _turn(self, frames: Sequence[VisualTokens]) -> list[Segment]:
        """A turn of the user with a clip of ``frames`` (if any), up to the words behind it."""
        # The first turn opens the chat, later ones close what the model said before.
        before = f"{CLOSE if self._num_turns else SYSTEM}{USER}"
        pending = Text(ids=tuple(self.pending_ids))
        if not frames:
            return [pending, Text(before)]
        before += time_text(frames[0].start_s, frames[-1].stop_s) + VISION_START
        return [pending, Text(before), Clip(tuple(frames)), Text(VISION_END)]

    def _axes(self) -> TimeRowColumn:
        return TimeRowColumn(is_flat=self._num_turns > 0 and self.settings.positions == "official")

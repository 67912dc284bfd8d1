"""When Dispider speaks: after every clip its small model decides anew about each watched question (section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from stc_lab.language.caches.growing import GrowingStore
from stc_lab.measure import StageTimer
from stc_lab.measure.flops import decoder_flops
from stc_lab.memories.base import Reading
from stc_lab.memories.dispider import (
    ANSWERED,
    QUESTION,
    TO_DO,
    Clip,
    DispiderState,
    Judge,
    Judgement,
    Moment,
    opening,
)
from stc_lab.triggers import Trigger, TriggerState
from stc_lab.types import Decision, Question


class DispiderTrigger(Trigger):
    """Decides from the clips that the memory holds, with the network that perceived them."""

    def open(self, memory: DispiderState, timer: StageTimer) -> DispiderWatch:
        return DispiderWatch(memory, timer)


@dataclass(frozen=True)
class Verdict:
    """A judgement about a watched question after the first ``num_clips`` clips of the stream."""

    question: Question
    time_s: float
    num_clips: int
    judgement: Judgement

    @property
    def decision(self) -> Decision:
        """What is reported of it."""
        return Decision(self.question.question_id, self.time_s, self.judgement.score, self.judgement.responds)


class DispiderWatch(TriggerState):
    """The watched questions of one stream; what came before one was given is read in summarised form."""

    def __init__(self, memory: DispiderState, timer: StageTimer) -> None:
        self.watchers: dict[str, Watcher] = {}
        self._memory, self._timer = memory, timer
        self._num_seen = 0

    def watch(self, question: Question) -> None:
        if question.question_id in self.watchers:
            raise ValueError(f"question '{question.question_id}' is watched already")
        self.watchers[question.question_id] = Watcher(question, self._memory.judge, self._memory.clips)

    def unwatch(self, question_id: str) -> None:
        self.watchers.pop(question_id, None)

    def observe(self) -> tuple[list[Decision], int]:
        decisions, flops = [], 0
        clips, first_new = self._memory.clips, self._num_seen
        self._num_seen = len(clips)
        for number in range(first_new + 1, len(clips) + 1):
            for watcher in self.watchers.values():
                verdict = watcher.observe(clips[:number])
                decisions.append(verdict.decision)
                flops += verdict.judgement.flops
        return decisions, flops

    def reading(self, decision: Decision) -> tuple[Question, Reading]:
        watcher = self.watchers.get(decision.question_id)
        verdict = next((each for each in watcher.verdicts if each.decision == decision), None) if watcher else None
        if verdict is None:
            raise ValueError(f"question '{decision.question_id}': no decision of {decision.time_s} s in this session")
        with self._timer.stage("retrieve"):
            clips = tuple(self._memory.clips[: verdict.num_clips])
            summary, flops = self._memory.judge.compressor.summary(clips)
            return verdict.question, self._memory.reading(Moment(clips, summary, flops), verdict.judgement, flops)

    def stats(self) -> dict[str, int]:
        watch_bytes = sum(watcher.num_bytes for watcher in self.watchers.values())
        return {"num_watched": len(self.watchers), "watch_bytes": watch_bytes}

    def close(self) -> None:
        self.watchers = {}


class Watcher:
    """Decisions about one question, each at the cost of one clip's memory.

    The compressor reads [marker, question, summaries of answered segments, memories since] once and keeps its keys
    and values; only question and to-do marker, which must come last, are read again for every decision. The
    decisions equal those of :func:`streaming_sequence` over the whole sequence.
    """

    def __init__(self, question: Question, judge: Judge, clips: Sequence[Clip]) -> None:
        self.question = question
        self.verdicts: list[Verdict] = []
        self.answered_at: list[int] = []
        self._judge, self._compressor = judge, judge.compressor
        self._store = GrowingStore(self._compressor.decoder.shape)
        self._segment: list[Clip] = []
        self._tail, _ = self._compressor.embeds([QUESTION, TO_DO], question.query, ())
        embeds, flops = self._compressor.embeds(opening(len(clips)), question.query, clips)
        self._flops = flops + self._read(embeds)[1]

    @property
    def num_bytes(self) -> int:
        """Bytes of the keys and values that are kept."""
        return self._store.num_bytes

    def observe(self, clips: Sequence[Clip]) -> Verdict:
        """Judge after the last of ``clips``, the only one that is new. ``flops`` of the judgement count all of it."""
        newest = clips[-1]
        self._segment.append(newest)
        # The new memory stays; the question, which must come last, is read behind it and forgotten.
        flops = self._flops + self._read(newest.memory)[1]
        state, cost = self._read(self._tail)
        self._store.drop_last(len(self._tail))
        judgement = self._judge.judge(state, clips, flops + cost)
        self._flops = self._close_segment(len(clips)) if judgement.responds else 0
        self.verdicts.append(Verdict(self.question, newest.last_s, len(clips), judgement))
        return self.verdicts[-1]

    def _close_segment(self, num_clips: int) -> int:
        """Summarise the clips since the last answer; returns the FLOPs, which the next judgement bears."""
        summary, flops = self._compressor.summary(self._segment)
        self._store.drop_last(sum(len(clip.memory) for clip in self._segment))
        marker, _ = self._compressor.embeds([ANSWERED], "", ())
        cost = self._read(summary)[1] + self._read(marker)[1]
        self._segment = []
        self.answered_at.append(num_clips)
        return flops + cost

    def _read(self, embeds: Tensor) -> tuple[Tensor, int]:
        """Last state [C] after ``embeds`` [T, C], and the FLOPs."""
        decoder, context = self._compressor.decoder, len(self._store)
        state = decoder(embeds, self._store)[-1]
        return state, decoder_flops(decoder.sizes, len(embeds), context)

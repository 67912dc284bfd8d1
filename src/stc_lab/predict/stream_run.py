"""One stream, in time order: frames are read once, every question is asked at its own time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Protocol

from stc_lab.predict.agenda import Ask, agenda
from stc_lab.predict.lane import Frame, Lane, Session
from stc_lab.predict.recorder import Recorder
from stc_lab.predict.seen import Polls
from stc_lab.predict.tasks import StreamTask
from stc_lab.results.records import Record
from stc_lab.types import Answer, Decision

DECISION = "decision"
"""Reader of a question whose moment, by the model's own decisions, never came."""


class Source(Protocol):
    """Frames on the sampling grid; ``frames(t)`` goes on from the last call and never reads beyond time ``t``."""

    def frames(self, until_s: float | None) -> Iterable[Frame]: ...


def run_stream(
    task: StreamTask,
    open_session: Callable[[], Session],
    source: Source,
    recorder: Recorder,
    chunk_size: int = 1,
    on_frames: Callable[[int], None] = lambda num_frames: None,
    reask: bool = False,
) -> Iterator[Record]:
    """Push the frames up to each question's time, ask, and yield one record per pending question.

    Frames go in ``chunk_size`` at a time, counted from where the question's context starts; a question cuts a chunk
    short. Questions with a record from an earlier run are not asked again, but divide the frames as they did in that
    run; with ``reask`` they are asked again without being recorded, for sessions that remember what they were asked.
    Nothing after the last pending question is read.
    """
    with ExitStack() as stack:
        run = _StreamRun(task, recorder, reask)
        for start_s in {question.context_start_s: None for question in task.pending}:
            run.lanes[start_s] = Lane(start_s, open_session, recorder, chunk_size, on_frames)
            stack.callback(run.lanes[start_s].close)
        for ask in agenda(task):
            if not run.is_due(ask):
                continue
            for frame in _awaited(source.frames(_until(ask)), recorder):
                run.show(frame)
            record = run.put(ask)
            if record is not None:
                yield record


class _StreamRun:
    """The lanes of a stream and the questions that are left of it."""

    def __init__(self, task: StreamTask, recorder: Recorder, reask: bool) -> None:
        self.lanes: dict[float, Lane] = {}
        self._task = task
        self._recorder = recorder
        self._reask = reask
        self._left = {question.question_id: question for question in task.pending}
        self._done: set[str] = set()
        self._polls: dict[str, Polls] = {}

    def is_due(self, ask: Ask) -> bool:
        """Whether the question is open, and its lane still has a question that needs a record."""
        return ask.question.question_id not in self._done and ask.question.context_start_s in self.lanes

    def show(self, frame: Frame) -> None:
        """A frame to all lanes."""
        for lane in self.lanes.values():
            lane.take(frame)

    def put(self, ask: Ask) -> Record | None:
        """Ask what is due. Returns the record of a question that is done by that and needs one."""
        question = ask.question
        lane = self.lanes[question.context_start_s]
        if ask.is_notice:
            lane.watch(question)
            return None
        is_recorded = question.question_id not in self._left
        if is_recorded and not (self._reask or ask.is_poll):
            lane.flush()
            self._end(ask, lane)
            return None
        if lane.seen.num_frames == 0:
            return self._unseen(ask, lane, is_recorded)
        record = self._polled(ask, lane) if ask.is_poll else self._answered(ask, lane)
        if record is not None:
            self._end(ask, lane)
        return None if is_recorded else record

    def _unseen(self, ask: Ask, lane: Lane, is_recorded: bool) -> Record | None:
        if not ask.is_last:
            return None
        record = None if is_recorded else self._recorder.unseen(self._task.stream, ask.question, lane.seen)
        self._end(ask, lane)
        return record

    def _answered(self, ask: Ask, lane: Lane, polls: Polls | None = None) -> Record:
        answer = lane.ask(ask.at_that_time)
        if polls is not None:
            answer.details = {**answer.details, "answered_s": ask.time_s}
        stream, stats = self._task.stream, lane.session.stats()
        return self._recorder.answered(stream, ask.question, answer, lane.seen, stats, polls)

    def _polled(self, ask: Ask, lane: Lane) -> Record | None:
        polling = ask.question.polling
        polls = self._polls.setdefault(ask.question.question_id, Polls())
        if (decisions := lane.decisions(ask.question.question_id)) is not None:
            return self._decided(ask, lane, polls, decisions)
        reply = lane.ask(Ask(ask.time_s, polling.ask).at_that_time)
        polls.add(ask.time_s, reply, lane.seen.num_frames)
        if polling.trigger in reply.text.casefold():
            return self._answered(ask, lane, polls)
        if not ask.is_last:
            return None
        return self._recorder.silent(self._task.stream, ask.question, reply, lane.seen, lane.session.stats(), polls)

    def _decided(
        self, ask: Ask, lane: Lane, polls: Polls, decisions: Sequence[tuple[Decision, int]]
    ) -> Record | None:
        """The model's own decisions since the last look, up to the first to respond, in place of a poll."""
        stream, stats = self._task.stream, lane.session.stats()
        for decision, num_frames_seen in decisions:
            polls.decided(decision, num_frames_seen)
            if decision.responds:
                answer = lane.respond(decision)
                answer.details = {**answer.details, "answered_s": decision.time_s}
                return self._recorder.answered(stream, ask.question, answer, lane.seen, stats, polls)
        if not ask.is_last:
            return None
        return self._recorder.silent(stream, ask.question, Answer("", None, DECISION), lane.seen, stats, polls)

    def _end(self, ask: Ask, lane: Lane) -> None:
        """The question is done; a lane without pending questions is closed."""
        question_id = ask.question.question_id
        self._done.add(question_id)
        lane.unwatch(question_id)
        if self._left.pop(question_id, None) is None:
            self._recorder.skip(lane.seen)
        elif all(left.context_start_s != lane.start_s for left in self._left.values()):
            self.lanes.pop(lane.start_s).close()


def _until(ask: Ask) -> float | None:
    return None if math.isinf(ask.time_s) else ask.time_s


def _awaited(frames: Iterable[Frame], recorder: Recorder) -> Iterator[Frame]:
    iterator = iter(frames)
    while True:
        with recorder.counted_as("wait_ms"):
            frame = next(iterator, None)
        if frame is None:
            return
        yield frame

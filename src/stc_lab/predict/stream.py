"""One stream, in time order: frames are read once, every question is asked at its own time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from stc_lab.predict.recorder import FramesShown, Polls, Recorder
from stc_lab.results.records import Record
from stc_lab.types import Answer, Decision, FrameReport, Question, Stream

DECISION = "decision"
"""Reader of a question whose moment, by the model's own decisions, never came."""
ROUNDING_S = 1e-6  # grid times and context starts are both rounded decimals


class Session(Protocol):
    """What the loop needs from a stream session of a backbone."""

    def push(self, frames: list[np.ndarray], timestamps_s: list[float]) -> list[FrameReport]: ...

    def flush(self) -> list[FrameReport]: ...

    def ask(self, question: Question) -> Answer: ...

    def stats(self) -> dict: ...

    def close(self) -> None: ...


class Frame(Protocol):
    """One sampled frame: pixels uint8 [H, W, 3]; it stands for the point ``grid_time_s`` of the sampling grid."""

    timestamp_s: float
    grid_time_s: float
    pixels: np.ndarray
    decode_ms: float


class Source(Protocol):
    """Frames on the sampling grid; ``frames(t)`` goes on from the last call and never reads beyond time ``t``."""

    def frames(self, until_s: float | None) -> Iterable[Frame]: ...


@dataclass(frozen=True)
class StreamTask:
    """A stream with the ids of those of its questions that need no asking because they have a record."""

    stream: Stream
    recorded: frozenset[str] = frozenset()

    @property
    def pending(self) -> tuple[Question, ...]:
        """Questions still to be asked, in time order."""
        return tuple(q for q in self.stream.questions if q.question_id not in self.recorded)

    @property
    def until_s(self) -> float:
        """Stream time up to which something pending has to be read: nothing later is."""
        return max(question.last_time_s for question in self.pending)

    def spans(self) -> list[tuple[float, float]]:
        """Stream times from and up to which frames are shown, one pair per context that pending questions have."""
        starts = sorted({question.context_start_s for question in self.pending})
        return [(start, max(q.last_time_s for q in self.pending if q.context_start_s == start)) for start in starts]


@dataclass(frozen=True)
class ScheduledQuestion:
    """Question ``question`` is due at stream time ``time_s`` (``inf``: at the end of the video).

    ``is_poll``: it is first asked whether it is time to answer; ``is_last``: there is no later entry for it;
    ``is_notice``: nothing is asked, but a model that decides by itself when to respond gets to know the question.
    """

    time_s: float
    question: Question
    is_poll: bool = False
    is_last: bool = True
    is_notice: bool = False


def schedule(task: StreamTask) -> list[ScheduledQuestion]:
    """All that is asked of a stream, questions with a record included, in time order; ties in question order."""
    entries: list[ScheduledQuestion] = []
    for question in task.stream.questions:
        if question.polling is None:
            entries.append(ScheduledQuestion(question.time_s, question))
            continue
        if question.polling.decided_by != "polls":
            # A model that decides by itself hears the question when it is put; the polls then only look for decisions.
            entries.append(ScheduledQuestion(question.time_s, question, is_last=False, is_notice=True))
        *earlier, last = question.polling.times_s
        entries += [ScheduledQuestion(time_s, question, is_poll=True, is_last=False) for time_s in earlier]
        entries.append(ScheduledQuestion(last, question, is_poll=True))
    return sorted(entries, key=lambda entry: entry.time_s)


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
    short. Questions with a record from an earlier run are not asked again, but cut chunks as they did in that run; with
    ``reask`` they are asked again without being recorded, for sessions that remember what they were asked.
    Nothing after the last pending question is read.
    """
    with ExitStack() as stack:
        run = _StreamRun(task, recorder, reask)
        # One session per start of a context that a pending question has; others need no encoding.
        for start_s in {question.context_start_s: None for question in task.pending}:
            run.contexts[start_s] = ContextSession(start_s, open_session, recorder, chunk_size, on_frames)
            stack.callback(run.contexts[start_s].close)
        for due in schedule(task):
            if not run.is_open(due.question):
                continue
            # All frames up to the question and not one more; each goes to every session whose context has begun.
            frames = iter(source.frames(None if math.isinf(due.time_s) else due.time_s))
            while (frame := _next_frame(frames, recorder)) is not None:
                for context in run.contexts.values():
                    context.take(frame)
            record = run.put(due)
            if record is not None:
                yield record


def _next_frame(frames: Iterator[Frame], recorder: Recorder) -> Frame | None:
    with recorder.attribute_to("wait_ms"):
        return next(frames, None)


class ContextSession:
    """The session of all questions that may know the stream from ``start_s`` on.

    There is one for all questions where the whole past counts, and one per window where only the last seconds do.
    Frames go in ``chunk_size`` at a time, counted from its first. The session is opened with the first frame, or by
    the first question.
    """

    def __init__(
        self,
        start_s: float,
        open_session: Callable[[], Session],
        recorder: Recorder,
        chunk_size: int = 1,
        on_frames: Callable[[int], None] = lambda num_frames: None,
    ) -> None:
        self.start_s = start_s
        self.shown = FramesShown()
        self._open_session = open_session
        self._recorder = recorder
        self._chunk_size = chunk_size
        self._on_frames = on_frames
        self._chunk: list[Frame] = []
        self._session: Session | None = None
        self._decisions: dict[str, list[tuple[Decision, int]]] = {}

    @property
    def session(self) -> Session:
        """The session, opened when it is first needed."""
        if self._session is None:
            self._session = self._open_session()
        return self._session

    def take(self, frame: Frame) -> None:
        """The next frame of the stream; it is pushed as soon as its chunk is full."""
        # The point of the grid counts: a frame shown at 2 s may have been on the screen since 1.96 s.
        if frame.grid_time_s < self.start_s - ROUNDING_S:
            return
        self.shown.add(frame.timestamp_s, frame.decode_ms)
        self._chunk.append(frame)
        if self.shown.num_frames % self._chunk_size == 0:
            self.push_waiting()

    def push_waiting(self) -> None:
        """Push what waits for its chunk to fill: a question does not wait."""
        if self._chunk:
            chunk, self._chunk = self._chunk, []
            self._note(self.session.push([frame.pixels for frame in chunk], [frame.timestamp_s for frame in chunk]))
            self._on_frames(len(chunk))

    def flush(self) -> None:
        """Remember the frames that still wait for more: no question follows, and none will come."""
        self._note(self.session.flush())

    def ask(self, question: Question) -> Answer:
        """Ask the session, after all frames it was to be shown."""
        self.push_waiting()
        return self.session.ask(question)

    def watch(self, question: Question) -> None:
        """Let a session that can decide when to answer ``question``, from the next frame on.

        Raises ``ValueError`` where the model must decide and the session cannot.
        """
        self.push_waiting()
        if getattr(self.session, "trigger", None) is not None:
            self._decisions[question.question_id] = []
            self.session.watch(question)
        elif question.polling.decided_by == "model":
            raise ValueError("dataset.decided_by=model: this session does not decide by itself; use auto or polls")

    def decisions(self, question_id: str) -> list[tuple[Decision, int]] | None:
        """New decisions about a question, with the frames shown by then; ``None`` for one that is not watched."""
        self.push_waiting()
        if question_id not in self._decisions:
            return None
        decisions, self._decisions[question_id] = self._decisions[question_id], []
        return decisions

    def respond(self, decision: Decision) -> Answer:
        """The response to a decision of the session."""
        return self.session.respond(decision)

    def unwatch(self, question_id: str) -> None:
        """No more decisions about a question that is done, or was never watched."""
        if self._decisions.pop(question_id, None) is not None:
            self.session.unwatch(question_id)

    def close(self) -> None:
        """Free the session."""
        session, self._session, self._chunk = self._session, None, []
        if session is not None:
            session.close()

    def _note(self, reports: Sequence[FrameReport]) -> None:
        # Decisions come with the frame that they were made at; they wait here until their question looks for them.
        self._recorder.add_frames(reports, self.shown)
        for decision in (decision for report in reports for decision in report.decisions):
            self._decisions[decision.question_id].append((decision, self.shown.num_frames))


class _StreamRun:
    """The sessions of a stream, by the start of their context, and the questions that are left of it."""

    def __init__(self, task: StreamTask, recorder: Recorder, reask: bool) -> None:
        self.contexts: dict[float, ContextSession] = {}
        self._stream = task.stream
        self._recorder = recorder
        self._reask = reask
        self._left = {question.question_id: question for question in task.pending}
        self._done: set[str] = set()
        self._polls: dict[str, Polls] = {}

    def is_open(self, question: Question) -> bool:
        """Whether the question is not done, and its session still has one that needs a record."""
        return question.question_id not in self._done and question.context_start_s in self.contexts

    def put(self, due: ScheduledQuestion) -> Record | None:
        """Ask what is due. Returns the record of a question that is done by that and needs one."""
        question, context = due.question, self.contexts[due.question.context_start_s]
        if due.is_notice:
            context.watch(question)
            return None
        # A question with a record: polls are repeated, since only their replies tell when it was answered.
        is_recorded = question.question_id not in self._left
        if is_recorded and not (self._reask or due.is_poll):
            context.push_waiting()
            self._end(question, context)
            return None
        record, is_done = None, due.is_last
        if context.shown.num_frames:
            record = self._poll(due, context) if due.is_poll else self._answer(due, context)
            is_done = record is not None
        elif is_done and not is_recorded:
            record = self._recorder.unseen(self._stream, question, context.shown)
        if is_done:
            self._end(question, context)
        return None if is_recorded else record

    def _answer(self, due: ScheduledQuestion, context: ContextSession, polls: Polls | None = None) -> Record:
        answer = context.ask(replace(due.question, time_s=due.time_s))
        return self._answered(due, context, answer, polls, answered_s=due.time_s)

    def _poll(self, due: ScheduledQuestion, context: ContextSession) -> Record | None:
        """Ask whether it is time to answer, and if so answer; ``None`` when later polls go on."""
        polling = due.question.polling
        polls = self._polls.setdefault(due.question.question_id, Polls())
        decisions = context.decisions(due.question.question_id)
        if decisions is None:
            reply = context.ask(replace(polling.ask, time_s=due.time_s))
            polls.add(due.time_s, reply, context.shown.num_frames)
            if polling.trigger in reply.text.casefold():
                return self._answer(due, context, polls)
        else:
            # In place of a poll: the model's own decisions since the last look, up to the first to respond.
            reply = Answer("", None, DECISION)
            for decision, num_frames_seen in decisions:
                polls.add_decision(decision, num_frames_seen)
                if decision.responds:
                    answer = context.respond(decision)
                    return self._answered(due, context, answer, polls, answered_s=decision.time_s)
        if not due.is_last:
            return None
        stats = self._last_stats(due.question, context)
        return self._recorder.silent(self._stream, due.question, reply, context.shown, stats, polls)

    def _answered(
        self,
        due: ScheduledQuestion,
        context: ContextSession,
        answer: Answer,
        polls: Polls | None,
        answered_s: float,
    ) -> Record:
        if polls is not None:
            answer.details = {**answer.details, "answered_s": answered_s}
        stats = self._last_stats(due.question, context)
        return self._recorder.answered(self._stream, due.question, answer, context.shown, stats, polls)

    def _last_stats(self, question: Question, context: ContextSession) -> dict:
        """Sizes of the session as ``question`` found it.

        The record of the last question of a session takes over the frames that still wait in it.
        """
        stats = context.session.stats()
        left = {other.question_id for other in self._left.values() if other.context_start_s == context.start_s}
        if left <= {question.question_id}:
            context.flush()
        return stats

    def _end(self, question: Question, context: ContextSession) -> None:
        """The question is done; a session without pending questions is closed."""
        self._done.add(question.question_id)
        context.unwatch(question.question_id)
        if self._left.pop(question.question_id, None) is None:
            # Frames and time since the question before it are in the record that it has from an earlier run.
            self._recorder.skip(context.shown)
        elif all(left.context_start_s != context.start_s for left in self._left.values()):
            self.contexts.pop(context.start_s).close()

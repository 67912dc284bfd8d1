"""A session on the part of a stream that its questions may know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from stc_lab.backbones.proactive import Proactive
from stc_lab.predict.recorder import Recorder
from stc_lab.predict.seen import Seen
from stc_lab.types import Answer, Decision, FrameReport, Question

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


class Lane:
    """Frames from ``start_s`` on, ``chunk_size`` at a time counted from the first, into one session.

    Questions with the same ``context_start_s`` share a lane: one lane for all where the whole past counts, one per
    window where only the last seconds do. The session is opened with the first frame, or by the first question.
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
        self.seen = Seen()
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
        if frame.grid_time_s < self.start_s - ROUNDING_S:
            return
        self.seen.add(frame.timestamp_s, frame.decode_ms)
        self._chunk.append(frame)
        if self.seen.num_frames % self._chunk_size == 0:
            self.catch_up()

    def catch_up(self) -> None:
        """Push what waits for its chunk to fill: a question does not wait."""
        if self._chunk:
            chunk, self._chunk = self._chunk, []
            self._note(self.session.push([frame.pixels for frame in chunk], [frame.timestamp_s for frame in chunk]))
            self._on_frames(len(chunk))

    def flush(self) -> None:
        """Divide the frames as a question at this moment does, without asking one."""
        self.catch_up()
        if self.seen.num_frames:
            self._note(self.session.flush())

    def ask(self, question: Question) -> Answer:
        """Ask the session, after all frames it was to be shown."""
        self.catch_up()
        answer = self.session.ask(question)
        self._note(self.session.flush())  # frames that had waited for more, until the question came
        return answer

    def watch(self, question: Question) -> None:
        """Let a session that can decide when to answer ``question``, from the next frame on.

        Raises ``ValueError`` where the model must decide and the session cannot.
        """
        self.catch_up()
        if isinstance(self.session, Proactive):
            self._decisions[question.question_id] = []
            self.session.watch(question)
        elif question.polling.decided_by == "model":
            raise ValueError("dataset.decided_by=model: this session does not decide by itself; use auto or polls")

    def decisions(self, question_id: str) -> list[tuple[Decision, int]] | None:
        """New decisions about a question, with the frames seen by then; ``None`` for one that is not watched."""
        self.catch_up()
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
        self._recorder.add_frames(reports, self.seen)
        for decision in (decision for report in reports for decision in report.decisions):
            self._decisions[decision.question_id].append((decision, self.seen.num_frames))

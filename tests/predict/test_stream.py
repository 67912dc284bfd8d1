"""One stream: frames up to the question and not one more, equal chunks on resume, records in order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from stc_lab.benchmarks.folder import FolderBenchmark
from stc_lab.benchmarks.streamingbench_proactive import StreamingBenchProactive
from stc_lab.predict.recorder import NEVER_TIME, NO_FRAME, Recorder
from stc_lab.predict.stream import StreamTask, run_stream
from stc_lab.results.records import Record, answer_view
from stc_lab.types import Answer, Decision, FrameReport, Polling, Question, Stream


@dataclass
class Frame:
    timestamp_s: float
    pixels: np.ndarray
    decode_ms: float = 2.0

    @property
    def grid_time_s(self) -> float:
        return self.timestamp_s


class Source:
    """Ten frames, one a second from ``first_s``; remembers how far it was read."""

    def __init__(self, first_s: float = 0.0) -> None:
        self.times = [first_s + second for second in range(10)]
        self.position = 0

    def frames(self, until_s: float | None) -> Iterator[Frame]:
        while self.position < 10 and (until_s is None or self.times[self.position] <= until_s):
            self.position += 1
            yield Frame(self.times[self.position - 1], np.zeros((2, 2, 3), np.uint8))


class Session:
    """Writes down what it is given; reports come when ``window`` frames are there, or at the end."""

    def __init__(self, window: int) -> None:
        self.chunks: list[list[float]] = []
        self.asked: list[tuple[str, int]] = []
        self.waiting: list[FrameReport] = []
        self.window = window

    def push(self, frames, timestamps_s) -> list[FrameReport]:
        self.chunks.append(timestamps_s)
        self.waiting += [FrameReport(t, True, 1.0, 9, 4, {"vision": 1.0}) for t in timestamps_s]
        return self.flush() if len(self.waiting) >= self.window else []

    def flush(self) -> list[FrameReport]:
        reports, self.waiting = self.waiting, []
        return reports

    def ask(self, question: Question) -> Answer:
        num_frames = sum(map(len, self.chunks))
        self.asked.append((question.question_id, num_frames))
        return Answer("A", "A", "fake", ttft_ms=1.0, latency_ms={"generate": 1.0})

    def stats(self) -> dict:
        return {}

    def close(self) -> None:
        self.closed = True


def run(
    times_s: list[float], recorded: set[str] = frozenset(), chunk_size: int = 1, first_s: float = 0.0, window: int = 1
) -> tuple[list[Record], Session, Source]:
    """Records, session and source of a stream with questions q0, q1, ... at ``times_s``."""
    questions = tuple(Question(f"q{i}", t, "?", ("x", "y"), "A") for i, t in enumerate(times_s))
    task = StreamTask(Stream("s", Path("s.mp4"), questions), frozenset(recorded))
    recorder = Recorder("f", FolderBenchmark("."), "cpu", warmup_frames=2, warmup_questions=1)
    session, source = Session(window), Source(first_s)
    return list(run_stream(task, lambda: session, source, recorder, chunk_size)), session, source


def test_a_question_sees_all_frames_up_to_its_time_and_no_other() -> None:
    records, session, source = run([2.0, 2.5, 6.9])
    assert session.asked == [("q0", 3), ("q1", 3), ("q2", 7)]
    assert source.position == 7
    assert [record.frames["timestamp_s"] for record in records] == [[0.0, 1.0, 2.0], [], [3.0, 4.0, 5.0, 6.0]]
    assert [record.last_frame_time_s for record in records] == [2.0, 2.0, 6.0]


def test_a_question_at_the_end_sees_everything() -> None:
    (record,), _, _ = run([math.inf])
    assert record.num_frames_seen == 10
    assert record.time_s is None


def test_a_question_before_the_first_frame_is_unanswered_and_not_asked() -> None:
    (early, late), session, _ = run([1.0, 4.0], first_s=3.0)
    assert (early.status, early.reason, early.correct) == ("unanswered", NO_FRAME, False)
    assert late.status == "answered"
    assert session.asked == [("q1", 2)]


def test_recorded_questions_are_not_asked_but_cut_chunks_as_before() -> None:
    everything, first, _ = run([1.5, 4.5, 8.5], chunk_size=3)
    missing, second, source = run([1.5, 4.5, 8.5], {"q0", "q2"}, chunk_size=3)
    assert second.chunks == first.chunks[: len(second.chunks)] == [[0.0, 1.0], [2.0], [3.0, 4.0]]
    assert second.asked == [("q1", 5)]
    assert source.position == 5
    assert [answer_view(record) for record in missing] == [answer_view(everything[1])]


def test_warm_up_is_marked_and_decoding_is_a_stage() -> None:
    records, _, _ = run([0.0, 3.0])
    assert [record.frames["num_warmup"] for record in records] == [1, 1]
    assert [record.warmup for record in records] == [True, False]
    assert records[1].frames["latency_ms"] == {"decode": [2.0] * 3, "vision": [1.0] * 3}


def test_a_question_does_not_end_the_wait_for_a_window_but_the_last_one_does() -> None:
    records, _, _ = run([2.0, 5.0], window=4)
    assert [record.frames["timestamp_s"] for record in records] == [[], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]]
    (later,), _, _ = run([2.0, 5.0], {"q0"}, window=4)
    assert answer_view(later) == answer_view(records[1])
    (first,), _, _ = run([2.0, 5.0], {"q1"}, window=4)
    assert first.frames["timestamp_s"] == [0.0, 1.0, 2.0]  # nothing comes after it that would take them over


@pytest.mark.parametrize("chunk_size", [1, 2, 5])
def test_chunks_never_reach_beyond_a_question(chunk_size: int) -> None:
    records, session, _ = run([2.0, 9.0], chunk_size=chunk_size)
    assert max(map(len, session.chunks)) <= chunk_size
    assert session.asked == [("q0", 3), ("q1", 10)]
    assert all(isinstance(record, Record) for record in records)


def windows(task: StreamTask, chunk_size: int = 1, reask: bool = False) -> tuple[list[Record], list[Session], Source]:
    """Records of a stream and the sessions it took, in the order in which they were opened."""
    recorder = Recorder("f", FolderBenchmark("."), "cpu")
    sessions, source = [], Source()

    def open_session() -> Session:
        sessions.append(Session(window=1))
        return sessions[-1]

    return list(run_stream(task, open_session, source, recorder, chunk_size, reask=reask)), sessions, source


def in_window(number: int, time_s: float, start_s: float) -> Question:
    return Question(f"q{number}", time_s, "?", ("x", "y"), "A", context_start_s=start_s)


def test_questions_with_a_window_see_it_and_nothing_else() -> None:
    stream = Stream("s", Path("s.mp4"), (in_window(0, 3.0, 0.0), in_window(1, 5.0, 2.0), in_window(2, 9.0, 6.0)))
    records, sessions, source = windows(StreamTask(stream))
    assert [record.frames["timestamp_s"] for record in records] == [[0, 1, 2, 3], [2, 3, 4, 5], [6, 7, 8, 9]]
    assert [record.num_frames_seen for record in records] == [4, 4, 4]
    assert all(session.closed for session in sessions)
    assert source.position == 10


def test_questions_with_the_same_window_share_its_session() -> None:
    stream = Stream("s", Path("s.mp4"), (in_window(0, 4.0, 2.0), in_window(1, 6.0, 2.0)))
    records, sessions, _ = windows(StreamTask(stream), chunk_size=2)
    assert [session.chunks for session in sessions] == [[[2.0, 3.0], [4.0], [5.0], [6.0]]]
    assert [record.context_start_s for record in records] == [2.0, 2.0]


def test_a_window_without_pending_questions_is_not_encoded() -> None:
    stream = Stream("s", Path("s.mp4"), (in_window(0, 3.0, 0.0), in_window(1, 5.0, 4.0)))
    records, sessions, _ = windows(StreamTask(stream, frozenset({"q0"})))
    assert [record.question_id for record in records] == ["q1"]
    assert [session.chunks for session in sessions] == [[[4.0], [5.0]]]


def test_sessions_that_remember_questions_are_asked_recorded_ones_again() -> None:
    stream = Stream("s", Path("s.mp4"), (in_window(0, 3.0, 0.0), in_window(1, 5.0, 0.0)))
    records, (session,), _ = windows(StreamTask(stream, frozenset({"q0"})), reask=True)
    assert [record.question_id for record in records] == ["q1"]
    assert session.asked == [("q0", 4), ("q1", 6)]
    assert records[0].frames["timestamp_s"] == [4.0, 5.0]


def polled(number: int, time_s: float, last_s: float, start_s: float = 0.0) -> Question:
    poll = Question(f"q{number}", time_s, "now?")
    meta = {"ground_truth_time_s": last_s - 2, "tolerance_s": 1}
    return Question(
        f"q{number}", time_s, "which?", answer="red", context_start_s=start_s, meta=meta,
        polling=Polling(poll, time_s + 1, last_s),
    )  # fmt: skip


class Watcher(Session):
    """Says yes once it has seen ``moment_s``."""

    def __init__(self, moment_s: float) -> None:
        super().__init__(window=1)
        self.moment_s = moment_s

    def ask(self, question: Question) -> Answer:
        answer = super().ask(question)
        last_s = self.chunks[-1][-1]
        text = "it is red" if question.text == "which?" else "Yes." if last_s >= self.moment_s else "No"
        return Answer(text, text, "fake", ttft_ms=1.0, latency_ms=answer.latency_ms)


def poll_run(moment_s: float, *questions: Question, recorded: set[str] = frozenset()) -> tuple[list[Record], Source]:
    recorder = Recorder("f", StreamingBenchProactive(root=".", videos="."), "cpu")
    task, source = StreamTask(Stream("s", Path("s.mp4"), questions), frozenset(recorded)), Source()
    return list(run_stream(task, lambda: Watcher(moment_s), source, recorder)), source


def test_polls_end_with_the_first_yes_and_then_the_question_is_asked() -> None:
    (record,), source = poll_run(5.0, polled(0, 1.0, 8.0))
    assert record.polls["time_s"] == [2.0, 3.0, 4.0, 5.0]
    assert record.polls["text"] == ["No", "No", "No", "Yes."]
    assert record.polls["num_frames_seen"] == [3, 4, 5, 6]
    assert (record.text, record.status, record.details["answered_s"]) == ("it is red", "answered", 5.0)
    assert record.correct is True
    assert record.time_s == 1.0
    assert source.position == 6


@pytest.mark.parametrize(("moment_s", "is_right"), [(4.0, False), (5.0, True), (7.0, True), (8.0, False)])
def test_a_yes_counts_within_the_tolerance_only(moment_s: float, is_right: bool) -> None:
    (record,), _ = poll_run(moment_s, polled(0, 1.0, 8.0))
    assert record.correct is is_right


def test_a_moment_that_never_comes_is_unanswered() -> None:
    (record,), source = poll_run(99.0, polled(0, 1.0, 4.0))
    assert (record.status, record.reason, record.correct) == ("unanswered", NEVER_TIME, False)
    assert (record.prediction, record.text, record.details["answered_s"]) == (None, "No", None)
    assert len(record.polls["time_s"]) == 3
    assert source.position == 5


def test_overlapping_polls_each_see_their_own_part() -> None:
    questions = polled(0, 1.0, 9.0, start_s=1.0), polled(1, 3.0, 7.0, start_s=3.0)
    records, _ = poll_run(6.0, *questions)
    assert {r.question_id: r.frames["timestamp_s"][0] for r in records} == {"q0": 1.0, "q1": 3.0}
    assert all(record.details["answered_s"] == 6.0 for record in records)
    rest, _ = poll_run(6.0, *questions, recorded={"q0"})
    (again,) = [record for record in records if record.question_id == "q1"]
    assert [answer_view(record) for record in rest] == [answer_view(again)]


def test_polls_of_a_recorded_question_are_repeated_for_those_that_share_its_session() -> None:
    questions = polled(0, 1.0, 9.0), polled(1, 3.0, 7.0)
    records, _ = poll_run(6.0, *questions)
    rest, _ = poll_run(6.0, *questions, recorded={"q0"})
    (again,) = [record for record in records if record.question_id == "q1"]
    assert answer_view(rest[0])["polls"] == answer_view(again)["polls"]
    assert rest[0].num_frames_seen == again.num_frames_seen


class Decider(Watcher):
    """Decides after every second frame, from ``moment_s`` on that it is time."""

    trigger = "there is one"

    def __init__(self, moment_s: float) -> None:
        super().__init__(moment_s)
        self.watched: list[Question] = []
        self.made: list[Decision] = []

    def push(self, frames, timestamps_s):
        reports = super().push(frames, timestamps_s)
        for report in reports:
            if report.timestamp_s % 2 == 1:
                for question in self.watched:
                    score = report.timestamp_s - self.moment_s
                    self.made.append(Decision(question.question_id, report.timestamp_s, score, score >= 0))
                    report.decisions.append(self.made[-1])
        return reports

    def watch(self, question: Question) -> None:
        assert all(chunk[-1] <= question.time_s for chunk in self.chunks)
        self.watched.append(question)

    def unwatch(self, question_id: str) -> None:
        self.watched = [question for question in self.watched if question.question_id != question_id]

    def respond(self, decision: Decision) -> Answer:
        assert decision in self.made
        return Answer("it is red", "it is red", "fake", ttft_ms=1.0)


def decided_run(
    moment_s: float, *questions: Question, session: type[Watcher] = Decider
) -> tuple[list[Record], list[Watcher]]:
    recorder = Recorder("f", StreamingBenchProactive(root=".", videos="."), "cpu")
    sessions: list[Watcher] = []

    def new_session() -> Watcher:
        sessions.append(session(moment_s))
        return sessions[-1]

    task = StreamTask(Stream("s", Path("s.mp4"), questions))
    return list(run_stream(task, new_session, Source(), recorder)), sessions


def test_a_session_that_decides_by_itself_is_not_polled() -> None:
    (record,), (session,) = decided_run(4.0, polled(0, 1.0, 7.0))
    assert record.polls["time_s"] == [3.0, 5.0] and record.polls["text"] == ["silent", "respond"]
    assert record.polls["num_frames_seen"] == [4, 6]
    assert (record.text, record.status, record.details["answered_s"]) == ("it is red", "answered", 5.0)
    assert record.correct is True and record.num_frames_seen == 6
    assert session.asked == [] and session.watched == []


def test_a_decision_that_never_comes_is_unanswered() -> None:
    (record,), (session,) = decided_run(99.0, polled(0, 1.0, 6.0))
    assert (record.status, record.reason, record.correct) == ("unanswered", NEVER_TIME, False)
    assert (record.text, record.details["answered_s"], record.polls["time_s"]) == ("", None, [3.0, 5.0])
    assert session.asked == []


def test_each_of_two_watched_questions_is_answered_on_its_own() -> None:
    records, (session,) = decided_run(6.0, polled(0, 1.0, 9.0), polled(1, 6.0, 9.0))
    assert [record.details["answered_s"] for record in records] == [7.0, 7.0]
    assert [record.polls["time_s"] for record in records] == [[3.0, 5.0, 7.0], [7.0]]
    assert session.watched == []


def test_polls_can_be_asked_for_and_a_model_that_cannot_decide_is_named() -> None:
    question = polled(0, 1.0, 7.0)
    by = {name: replace(question, polling=replace(question.polling, decided_by=name)) for name in ("polls", "model")}
    (record,), _ = decided_run(4.0, by["polls"])
    assert record.polls["text"] == ["No", "No", "Yes."] and record.details["answered_s"] == 4.0
    with pytest.raises(ValueError, match=r"dataset\.decided_by=model"):
        decided_run(4.0, by["model"], session=Watcher)

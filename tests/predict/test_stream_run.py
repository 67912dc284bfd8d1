"""One stream: frames up to the question and not one more, equal chunks on resume, records in order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from stc_lab.benchmarks.folder import FolderBenchmark
from stc_lab.predict.recorder import NO_FRAME, Recorder
from stc_lab.predict.stream_run import run_stream
from stc_lab.predict.tasks import StreamTask
from stc_lab.results.records import Record, answer_view
from stc_lab.types import Answer, FrameReport, Question, Stream


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
    """Writes down what it is given; reports come when ``window`` frames are there, or at a question."""

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


def test_recorded_questions_are_not_asked_but_divide_the_stream_as_before() -> None:
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


def test_frames_that_wait_for_a_window_belong_to_the_question_that_ends_the_wait() -> None:
    records, _, _ = run([2.0, 5.0], window=4)
    assert [record.frames["timestamp_s"] for record in records] == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    (later,), _, _ = run([2.0, 5.0], {"q0"}, window=4)
    assert later.frames["timestamp_s"] == [3.0, 4.0, 5.0]


@pytest.mark.parametrize("chunk_size", [1, 2, 5])
def test_chunks_never_reach_beyond_a_question(chunk_size: int) -> None:
    records, session, _ = run([2.0, 9.0], chunk_size=chunk_size)
    assert max(map(len, session.chunks)) <= chunk_size
    assert session.asked == [("q0", 3), ("q1", 10)]
    assert all(isinstance(record, Record) for record in records)

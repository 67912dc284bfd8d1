"""What is left to do, and how many frames that will take."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from stc_lab.predict.loop import StreamDataModule
from stc_lab.predict.progress import estimated_num_frames
from stc_lab.predict.resume import check_unique_ids, pending_tasks
from stc_lab.predict.stream import StreamTask
from stc_lab.types import Polling, Question, Stream


def make_stream(name: str, *times_s: float) -> Stream:
    return Stream(name, Path(name), tuple(Question(f"{name}{i}", t, "?") for i, t in enumerate(times_s)))


def test_only_streams_with_missing_questions_are_left() -> None:
    class Known:
        stream_id, question_id = "a", "a0"

    tasks = pending_tasks([make_stream("a", 1.0), make_stream("b", 1.0, 2.0)], [Known()])
    assert [task.stream.stream_id for task in tasks] == ["b"]
    assert [question.question_id for question in tasks[0].pending] == ["b0", "b1"]


@pytest.mark.parametrize(
    ("time_s", "fps", "duration_s", "expected"),
    [(3.0, 1.0, None, 4), (3.9, 1.0, None, 4), (3.0, 2.0, 1.2, 3), (math.inf, 1.0, None, 0), (math.inf, 1.0, 9.5, 10),
     (-1.0, 1.0, None, 0), (0.3, 10.0, None, 4)],
)  # fmt: skip
def test_estimated_frames(time_s: float, fps: float, duration_s: float | None, expected: int) -> None:
    assert estimated_num_frames(StreamTask(make_stream("a", time_s)), fps, duration_s) == expected


def test_ids_must_be_unique() -> None:
    with pytest.raises(ValueError, match="stream ids of the dataset are not unique: 'a'"):
        check_unique_ids([make_stream("a", 1.0), make_stream("a", 1.0)])
    twice = Stream("a", Path("a"), (Question("q", 1.0, "?"), Question("q", 2.0, "?")))
    with pytest.raises(ValueError, match="'q' occurs twice"):
        check_unique_ids([twice])


def test_shares_are_disjoint_and_complete() -> None:
    tasks = [StreamTask(make_stream(f"s{i}", 1.0)) for i in range(5)]
    module = StreamDataModule(tasks)
    shares = module.share(0, 2) + module.share(1, 2)
    assert sorted(task.stream.stream_id for task in shares) == [f"s{i}" for i in range(5)]


def test_every_window_is_counted_with_the_frames_it_will_be_shown() -> None:
    questions = (
        Question("a", 9.0, "?", context_start_s=6.5),
        Question("b", 3.0, "?", context_start_s=0.0),
        Question("c", 5.0, "?", polling=Polling(Question("c", 5.0, "now?"), 6.0, 8.0), context_start_s=5.0),
    )
    task = StreamTask(Stream("s", Path("s"), questions))
    assert task.spans() == [(0.0, 3.0), (5.0, 8.0), (6.5, 9.0)]
    assert task.until_s == 9.0
    assert estimated_num_frames(task, 1.0) == 4 + 4 + 3
    assert estimated_num_frames(task, 1.0, duration_s=7.2) == 4 + 3 + 1

"""The counts behind the bar."""

from __future__ import annotations

import math
from pathlib import Path

from rich.console import Console

from stc_lab.predict.progress import BarDisplay, Counts, LineDisplay
from stc_lab.predict.stream import StreamTask
from stc_lab.types import Question, Stream


def make_tasks(*times_s: float) -> list[StreamTask]:
    streams = [Stream(f"s{i}", Path("v"), (Question("q", t, "?"),)) for i, t in enumerate(times_s)]
    return [StreamTask(stream) for stream in streams]


def test_estimates_get_better_as_streams_are_opened_and_ended() -> None:
    tasks = make_tasks(9.0, math.inf)
    counts = Counts(tasks, fps=1.0)
    assert counts.num_frames == 10
    counts.start_stream(tasks[1], duration_s=4.2)
    assert counts.num_frames == 15
    counts.add_frames(4)
    counts.end_stream(tasks[1])
    assert counts.num_frames == 14
    counts.start_stream(tasks[0], duration_s=6.0)
    assert counts.num_frames == 11


def test_never_more_done_than_there_is() -> None:
    tasks = make_tasks(math.inf)
    counts = Counts(tasks, fps=1.0)
    counts.start_stream(tasks[0], duration_s=None)
    counts.add_frames(7)
    assert (counts.frames_done, counts.num_frames) == (7, 7)


def test_both_displays_show_both_counts(tmp_path: Path) -> None:
    tasks = make_tasks(2.0)
    for name, kind in (("bar", BarDisplay), ("lines", LineDisplay)):
        counts = Counts(tasks, fps=1.0)
        with (tmp_path / name).open("w") as file:
            display = kind(Console(file=file, width=120, force_terminal=kind is BarDisplay))
            display.start(counts)
            counts.add_frames(3)
            counts.questions_done = 1
            display.stop(counts)
        shown = (tmp_path / name).read_text()
        assert "3/3" in shown
        assert "1/1" in shown

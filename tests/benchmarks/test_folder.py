"""The user's own videos: with a question file, without one, and with mistakes in it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from stc_lab.benchmarks import Benchmark
from stc_lab.benchmarks.folder import FolderBenchmark
from stc_lab.types import Answer, Question


@pytest.fixture()
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    (folder / "deep").mkdir(parents=True)
    for name in ("b.mp4", "a.MKV", "deep/c.webm", "notes.txt"):
        (folder / name).touch()
    return folder


def ask(folder: Path, *rows: dict) -> FolderBenchmark:
    file = folder / "questions.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return FolderBenchmark(videos=str(folder), questions=str(file))


def test_without_questions_every_video_gets_one_at_its_end(videos: Path) -> None:
    streams = FolderBenchmark(videos=str(videos)).streams()
    assert [stream.stream_id for stream in streams] == ["a.MKV", "b.mp4", "deep/c.webm"]
    assert all(len(stream.questions) == 1 and math.isinf(stream.questions[0].time_s) for stream in streams)
    assert len(FolderBenchmark(videos=str(videos), limit=2).streams()) == 2


def test_one_file_is_a_folder_of_one(videos: Path) -> None:
    (stream,) = FolderBenchmark(videos=str(videos / "b.mp4")).streams()
    assert stream.video == videos / "b.mp4"


def test_questions_are_grouped_by_video_and_sorted_by_time(videos: Path) -> None:
    benchmark = ask(
        videos,
        {"video": "b.mp4", "question": "late?", "time_s": 5, "options": ["x", "y"], "answer": "B", "task": "past"},
        {"video": "a.MKV", "question": "end?"},
        {"video": "b.mp4", "question": "early?", "time_s": 1.5, "question_id": "mine"},
    )
    first, second = benchmark.streams()
    assert [question.text for question in second.questions] == ["early?", "late?"]
    assert [question.question_id for question in second.questions] == ["mine", "b.mp4#0"]
    assert second.questions[1].options == ("x", "y")
    assert math.isinf(first.questions[0].time_s)


def test_a_video_that_is_missing_is_no_error_here(videos: Path) -> None:
    (stream,) = ask(videos, {"video": "gone.mp4", "question": "?"}).streams()
    assert not stream.video.exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"video": "b.mp4"}, r"line 1 misses \['question'\]"),
        ({"video": "b.mp4", "question": "?", "time": 3}, r"line 1 has unknown fields \['time'\]"),
        ({"video": "b.mp4", "question": "?", "options": ["x", "y"], "answer": "C"}, "answer 'C' is none of A, B"),
    ],
)
def test_mistakes_in_the_question_file_are_named(videos: Path, row: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask(videos, row).streams()


def test_mistakes_in_the_settings_are_named(tmp_path: Path, videos: Path) -> None:
    with pytest.raises(ValueError, match="dataset.limit must be at least 1"):
        FolderBenchmark(videos=str(videos), limit=0)
    with pytest.raises(ValueError, match="dataset.fps must be above 0"):
        FolderBenchmark(videos=str(videos), fps=0.0)
    with pytest.raises(ValueError, match="no such folder"):
        FolderBenchmark(videos=str(tmp_path / "nowhere")).streams()
    with pytest.raises(ValueError, match="dataset.questions: no such file"):
        FolderBenchmark(videos=str(videos), questions="nowhere.jsonl").streams()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no video"):
        FolderBenchmark(videos=str(tmp_path / "empty")).streams()


@pytest.mark.parametrize(
    ("options", "gold", "prediction", "text", "expected"),
    [
        (("x", "y"), "B", "B", "B) y", True),
        (("x", "y"), "B", "A", "B", False),
        (("x", "y"), "", "A", "A", None),
        ((), "a red car", "a red car", " A red car ", True),
        ((), "a red car", "blue", "blue", False),
    ],
)
def test_scoring(options: tuple[str, ...], gold: str, prediction: str, text: str, expected: bool | None) -> None:
    benchmark = FolderBenchmark(videos=".")
    assert isinstance(benchmark, Benchmark)
    question = Question("q", 0.0, "?", options, gold)
    assert benchmark.score(question, Answer(text, prediction, "fake")) is expected


def test_csv_files_say_the_same_as_json_lines(videos: Path) -> None:
    rows = [
        {"video": "b.mp4", "time_s": 1.5, "question": "what, if any?", "options": ["x y", "z"], "answer": "B",
         "task": "t"},
        {"video": "a.MKV", "question": "end?"},
    ]
    lines = ["video,time_s,question,options,answer,task", 'b.mp4,1.5,"what, if any?",x y | z,B,t', "a.MKV,,end?,,,"]
    (videos / "questions.csv").write_text("\n".join(lines) + "\n")
    from_csv = FolderBenchmark(videos=str(videos), questions=str(videos / "questions.csv")).streams()
    assert from_csv == ask(videos, *rows).streams()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("b.mp4,1,?,,", "line 2 has more cells"),
        ("b.mp4,soon,?,", "line 2: time_s='soon'"),
        (",1,?,", r"line 2 misses \['video'\]"),
        ("b.mp4,1,?,C", "line 2: answer 'C' is none of A, B"),
    ],
)
def test_mistakes_in_a_csv_file_are_named(videos: Path, line: str, message: str) -> None:
    cells = line.split(",")
    (videos / "q.csv").write_text("video,time_s,question,answer,options\n" + ",".join([*cells[:4], "x|y", *cells[4:]]))
    with pytest.raises(ValueError, match=message):
        FolderBenchmark(videos=str(videos), questions=str(videos / "q.csv")).streams()


def test_missing_videos_of_a_question_file_can_stop_the_run(videos: Path) -> None:
    ask(videos, {"video": "b.mp4", "question": "?"}, {"video": "gone.mp4", "question": "?"})
    settings = {"videos": str(videos), "questions": str(videos / "questions.jsonl")}
    assert len(FolderBenchmark(**settings).streams()) == 2
    with pytest.raises(ValueError, match=r"1 of 2 videos are missing \(1 of 2 questions\)"):
        FolderBenchmark(**settings, missing="error").streams()

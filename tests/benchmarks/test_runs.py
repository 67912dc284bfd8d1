"""Every benchmark end to end with the pocket model, on clips laid out like the official ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from made import MAKERS, SECONDS, write_video

import stc_lab
from stc_lab.backbones.base import VideoModel
from stc_lab.benchmarks import Benchmark
from stc_lab.benchmarks.folder import FolderBenchmark
from stc_lab.cachers.stc import STCCacher
from stc_lab.config import RunSettings, conf_dir, validate
from stc_lab.predict.recorder import Recorder
from stc_lab.predict.run import Point
from stc_lab.predict.stream import StreamTask, run_stream
from stc_lab.pruners.stc import STCPruner
from stc_lab.results.records import RECORDS_FILE, Record, answer_view, read_records
from stc_lab.types import Stream
from stc_lab.video import open_video

CHOICE = {"question": "What?", "options": ["x", "y"], "answer": "A"}
FRAMES_READ = {
    "ovobench": 5 + 6 + 6, "streamingbench": 6 + 5, "streamingbench_sqa": 6, "mlvu": 7 * 3, "egoschema": 3,
    "videomme": 2 * 3,
}  # fmt: skip
"""Frames up to the last question of every video, at each benchmark's own rate."""
ANEW = {
    "ovobench": (2 + 5) + (3 + 4 + 6) + (3 + 6), "streamingbench": (3 + 4 + 6) + 5, "streamingbench_sqa": 3 + 6,
    "mlvu": 8 * 3, "egoschema": 3, "videomme": 3 * 3,
}  # fmt: skip
"""Frames that would have been read if every question had started from the beginning."""


@pytest.fixture(scope="module")
def pocket() -> VideoModel:
    """The pocket model, loaded once."""
    return stc_lab.load("rekv", max_new_tokens=2)


def settings(name: str, given: dict[str, str], *more: str) -> RunSettings:
    """A run as the command line composes it."""
    overrides = [f"dataset={name}", *(f"dataset.{key}={value}" for key, value in given.items()), *more]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("config", [*overrides, "trainer.accelerator=cpu", "video.reader=pyav", "pruner.budget=16"])
    return validate(cfg)


def run(settings: RunSettings, run_dir: Path, model: VideoModel) -> tuple[dict, list[Record]]:
    summary = Point(settings, run_dir, settings.benchmark.streams(), model).finish()
    return summary, read_records(run_dir / RECORDS_FILE)


def slow_but(quick: str, names: Iterable[str]) -> list:
    """All names as parameters, marked as slow but for one."""
    return [name if name == quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", slow_but("ovobench", FRAMES_READ))
def test_every_question_is_asked_in_time_and_every_frame_encoded_once(
    name: str, tmp_path: Path, pocket: VideoModel
) -> None:
    wanted = settings(name, MAKERS[name](tmp_path / "data"))
    summary, records = run(wanted, tmp_path / "run", pocket)
    questions = [question for stream in wanted.benchmark.streams() for question in stream.questions]
    assert sorted(r.question_id for r in records) == sorted(question.question_id for question in questions)
    assert summary["num_failed"] == summary["num_errors"] == 0
    assert summary["encoding"]["num_frames"] == FRAMES_READ[name]
    assert summary["encoding"]["num_frames_anew"] == ANEW[name]
    assert all(r.last_frame_time_s <= (r.time_s if r.time_s is not None else SECONDS) + 1e-6 for r in records)
    style = "backbone" if name == "egoschema" else "official"
    assert summary["prompt"] == {"style": style, "chat_template": True}
    assert summary["clock"]["sustainable_fps"] > 0
    assert summary["clock"]["response_delay_s"]["median"] > 0


def test_proactive_questions_are_polled_for_within_their_own_part(tmp_path: Path, pocket: VideoModel) -> None:
    name = "streamingbench_proactive"
    wanted = settings(name, MAKERS[name](tmp_path / "data"))
    _, records = run(wanted, tmp_path / "run", pocket)
    by_id = {record.question_id: record for record in records}
    assert sorted(by_id) == ["sample_2_1", "sample_2_2"]
    for record in records:
        polls, answered_s = record.polls["time_s"], record.details["answered_s"]
        assert polls == [record.time_s + 1 + number for number in range(len(polls))]
        assert record.frames["timestamp_s"][0] == record.context_start_s == record.time_s
        assert (record.status == "unanswered") == (answered_s is None)
        assert answered_s in (None, polls[-1])
    assert by_id["sample_2_1"].polls["time_s"][-1] <= 6.0


def test_a_model_that_decides_by_itself_finds_the_moment(tmp_path: Path) -> None:
    """Clips of four frames: a decision every four seconds from the question on, and no poll."""
    name, given = "streamingbench_proactive", MAKERS["streamingbench_proactive"](tmp_path / "data")
    more = ("backbone=dispider", "backbone.max_new_tokens=2", "dataset.decided_by=model")
    wanted = settings(name, given, *more)
    _, records = run(wanted, tmp_path / "run", wanted.backbone.load())
    for record in records:
        times_s, said = record.polls.get("time_s", []), record.polls.get("text", [])
        assert times_s == [record.time_s + 3 + 4 * number for number in range(len(times_s))]
        assert set(said[:-1]) <= {"silent"} and (record.status == "answered") == (said[-1:] == ["respond"])
        assert record.details["answered_s"] == (times_s[-1] if record.status == "answered" else None)
    assert any(record.polls for record in records)


def test_only_a_model_that_decides_by_itself_can_be_told_to(tmp_path: Path) -> None:
    given = {key: str(tmp_path) for key in ("root", "videos")}
    with pytest.raises(ValueError, match=r"dataset.decided_by=model: backbone=rekv"):
        settings("streamingbench_proactive", given, "dataset.decided_by=model")


@pytest.mark.slow
def test_a_window_of_context_shows_the_last_seconds_only(tmp_path: Path, pocket: VideoModel) -> None:
    wanted = settings("streamingbench", MAKERS["streamingbench"](tmp_path / "data"), "dataset.context_s=2")
    _, records = run(wanted, tmp_path / "run", pocket)
    shown = {record.question_id: (record.context_start_s, record.num_frames_seen) for record in records}
    assert shown == {"sample_3_1": (0, 3), "sample_3_3": (1, 3), "sample_3_2": (3, 3), "sample_12_1": (2, 3)}


@pytest.mark.slow
def test_bare_prompts_are_recorded_as_such(tmp_path: Path, pocket: VideoModel) -> None:
    wanted = settings("streamingbench_sqa", MAKERS["streamingbench_sqa"](tmp_path / "data"), "dataset.prompt=bare")
    summary, records = run(wanted, tmp_path / "run", pocket)
    assert summary["prompt"] == {"style": "bare", "chat_template": False}
    assert records[0].details["num_question_tokens"] == records[0].num_prompt_tokens
    given = {key: str(tmp_path) for key in ("root", "videos")}
    with pytest.raises(ValueError, match=r"dataset.prompt=bare: backbone=dispider"):
        settings("ovobench", given, "dataset.prompt=bare", "backbone=dispider")


@pytest.mark.slow
def test_a_missing_video_costs_its_own_questions(tmp_path: Path, pocket: VideoModel) -> None:
    given = MAKERS["ovobench"](tmp_path / "data")
    (Path(given["videos"]) / "MovieNet" / "b.mp4").unlink()
    with pytest.raises(ValueError, match=r"1 of 3 videos are missing \(3 of 7 questions\)"):
        settings("ovobench", given).benchmark.streams()
    summary, records = run(settings("ovobench", given, "dataset.missing=skip"), tmp_path / "run", pocket)
    assert (summary["num_questions"], summary["num_failed"]) == (7, 3)
    reasons = {record.reason for record in records if record.stream_id == "MovieNet/b.mp4"}
    assert all(reason.startswith("video missing: ") for reason in reasons)


def test_order_and_shards_change_no_answer(tmp_path: Path, pocket: VideoModel) -> None:
    """Three streams in order, backwards, in two shards, and one by one: byte-equal sorted answers."""
    folder = tmp_path / "clips"
    rows = []
    for number in range(3):
        write_video(folder / f"{number}.mp4", seed=number, seconds=2 + number % 2)
        for time_s in (0, 1.5):
            rows.append({"video": f"{number}.mp4", "time_s": time_s, **CHOICE})
    (folder / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    benchmark = FolderBenchmark(videos=str(folder), questions=str(folder / "q.jsonl"))
    streams = benchmark.streams()
    whole = answers([streams], benchmark, pocket)
    assert len(whole) == 6
    assert answers([streams[::-1]], benchmark, pocket) == whole
    assert answers([streams[1::2], streams[0::2]], benchmark, pocket) == whole
    assert answers([[stream] for stream in streams], benchmark, pocket) == whole


def answers(shards: Sequence[Sequence[Stream]], benchmark: Benchmark, model: VideoModel) -> list[str]:
    """Sorted lines of the answers of several processes, each with its share of the streams."""
    open_session = partial(stc_lab.open_session, model, STCCacher(), STCPruner(budget=16))
    torch.set_num_threads(1)
    lines = []
    for streams in shards:
        recorder = Recorder("f", benchmark, "cpu")
        for stream in streams:
            torch.manual_seed(0)
            with open_video(stream.video, "pyav", benchmark.fps, in_process=True) as source:
                for record in run_stream(StreamTask(stream), open_session, source, recorder):
                    lines.append(json.dumps(answer_view(record), sort_keys=True))
    return sorted(lines)


@pytest.mark.slow
def test_real_clips_with_the_example_of_the_documentation(shared_dir: Path, tmp_path: Path, pocket: VideoModel) -> None:
    """``docs/datasets.md`` shows this question file; the clips are real footage in three formats."""
    page = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
    for suffix, block in (("jsonl", "json"), ("csv", "csv")):
        example = page.split(f"<!-- example.{suffix} -->\n```{block}\n")[1].split("```")[0]
        (tmp_path / f"questions.{suffix}").write_text(example)
        given = {"videos": str(shared_dir / "data" / "video"), "questions": str(tmp_path / f"questions.{suffix}")}
        summary, records = run(settings("folder", given, "dataset.missing=error"), tmp_path / suffix, pocket)
        assert (summary["num_questions"], summary["num_scored"], summary["num_failed"]) == (4, 3, 0)
        assert {record.stream_id for record in records} == {"street_720p.mp4", "pancake.mkv", "nasa.mp4"}
        assert all(record.last_frame_time_s <= (record.time_s or 99.0) for record in records)


@pytest.mark.slow
def test_five_questions_cost_one_encoding(tmp_path: Path, pocket: VideoModel) -> None:
    """As ``docs/protocol.md`` says: re-encoding for five evenly spread questions would read three times the frames."""
    folder = tmp_path / "clips"
    write_video(folder / "v.mp4", seed=1, seconds=10)
    encoded = {}
    for count in (1, 5):
        times_s = [10 * number / count - 1 for number in range(1, count + 1)]
        rows = [{"video": "v.mp4", "time_s": time_s, **CHOICE} for time_s in times_s]
        (folder / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
        given = {"videos": str(folder), "questions": str(folder / "q.jsonl")}
        summary, _ = run(settings("folder", given), tmp_path / str(count), pocket)
        encoded[count] = summary["encoding"]
    assert encoded[1] == {"num_frames": 10, "num_frames_anew": 10, "ratio": 1.0}
    assert encoded[5] == {"num_frames": 10, "num_frames_anew": 30, "ratio": 3.0}

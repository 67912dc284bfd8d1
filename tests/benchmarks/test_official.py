"""The published benchmarks: every official file parses, videos are found, what is missing is counted."""

from __future__ import annotations

import logging
import math
from collections import Counter
from pathlib import Path

import pytest
from made import MAKERS, OVO, make_hub_csv, write_json

from stc_lab.benchmarks import Benchmark
from stc_lab.benchmarks.base import OfficialBenchmark
from stc_lab.benchmarks.egoschema import EgoSchema
from stc_lab.benchmarks.mlvu import MLVU, NO_OPTION, NO_QUESTION
from stc_lab.benchmarks.ovobench import OVOBench
from stc_lab.benchmarks.streamingbench import StreamingBench, seconds
from stc_lab.benchmarks.streamingbench_proactive import StreamingBenchProactive
from stc_lab.benchmarks.streamingbench_sqa import StreamingBenchSQA
from stc_lab.benchmarks.videomme import VideoMME
from stc_lab.predict.resume import check_unique_ids
from stc_lab.types import Answer, Question, Stream

KINDS = (OVOBench, StreamingBench, StreamingBenchSQA, StreamingBenchProactive, MLVU, EgoSchema, VideoMME)
SIZES = {
    "ovobench": (644, 3035), "streamingbench": (499, 2500), "streamingbench_sqa": (50, 250),
    "streamingbench_proactive": (50, 250), "mlvu": (1242, 2175), "egoschema": (500, 500), "videomme": (900, 2700),
}  # fmt: skip
"""Distinct videos and questions."""
BY_TASK = {
    "ovobench": {"REC": 698, "SSR": 629, "CRR": 240, "EPM": 297, "HLD": 186, "OJR": 184, "STU": 178, "OCR": 149,
                 "ASI": 148, "ATR": 116, "ACR": 109, "FPD": 101},
    "mlvu": {"plotQA": 539, "needle": 355, "ego": 352, "count": 206, "order": 259, "anomaly_reco": 200,
             "topic_reasoning": 264},
}  # fmt: skip


def made(kind: type[OfficialBenchmark], root: Path, **more) -> OfficialBenchmark:
    return kind(**MAKERS[kind.name](root, with_videos=False), **{"missing": "skip", **more})


def questions(streams: list[Stream]) -> dict[str, Question]:
    return {question.question_id: question for stream in streams for question in stream.questions}


@pytest.mark.parametrize("kind", KINDS)
def test_official_files_parse_in_full(kind: type[OfficialBenchmark], shared_dir: Path, tmp_path: Path) -> None:
    root = shared_dir / "data" / "annotations"
    benchmark = kind(root=str(root), videos=str(tmp_path), missing="skip")
    assert isinstance(benchmark, Benchmark)
    streams = benchmark.streams()
    asked = [question for stream in streams for question in stream.questions]
    assert (len(streams), len(asked)) == SIZES[kind.name]
    check_unique_ids(streams)
    assert len({stream.video for stream in streams}) == len(streams)
    assert all(question.answer and question.text.strip() for question in asked)
    assert all(question.answer in (*question.letters, NO_OPTION) for question in asked if question.options)
    if kind.name in BY_TASK:
        assert Counter(question.task for question in asked) == BY_TASK[kind.name]


def test_official_items_keep_their_number(shared_dir: Path, tmp_path: Path) -> None:
    root = str(shared_dir / "data" / "annotations")
    ovo = [item.question for item in OVOBench(root=root, videos=str(tmp_path)).items()]
    assert {question.meta["item"] for question in ovo} == set(range(1640))
    assert Counter(question.group for question in ovo) == {"backward": 631, "realtime": 837, "forward": 1567}
    mlvu = [item.question for item in MLVU(root=root, videos=str(tmp_path)).items()]
    lost = [question for question in mlvu if question.meta]
    assert [question.question_id for question in mlvu if question.text == NO_QUESTION] == ["7_topic_reasoning_26"]
    assert [question.answer for question in lost] == [NO_OPTION] * 2
    long = [item.question.group for item in VideoMME(root=root, videos=str(tmp_path)).items()]
    assert Counter(long) == {"short": 900, "medium": 900, "long": 900}


def test_ovo_items_become_timed_questions(tmp_path: Path) -> None:
    by_id = questions(made(OVOBench, tmp_path).streams())
    assert {name: question.time_s for name, question in by_id.items()} == {
        "8": 1.4, "7": 4.0, "20_0": 2.0, "20_1": 5.0, "21_0": 3.0, "22_0": 2.5, "22_1": 5.0
    }  # fmt: skip
    assert [by_id[name].answer for name in ("7", "20_0", "20_1", "21_0", "22_1")] == ["B", "No", "Yes", "Yes", "2"]
    assert by_id["21_0"].text == "mix the paint"
    assert by_id["22_1"].meta == {"item": 22, "probe": 1}
    rounded = OVOBench(root=str(tmp_path), videos=str(tmp_path), missing="skip", round_up=True)
    assert questions(rounded.streams())["8"].time_s == 2.0


def test_streamingbench_windows_and_both_kinds_of_files(tmp_path: Path) -> None:
    streams = made(StreamingBench, tmp_path / "a").streams()
    assert [stream.stream_id for stream in streams] == ["sample_3_real", "sample_12_real"]
    assert [q.question_id for q in streams[0].questions] == ["sample_3_1", "sample_3_3", "sample_3_2"]
    first = streams[0].questions[0]
    assert (first.time_s, first.options[2], first.answer, first.context_start_s) == (2.0, "Three.", "C", 0.0)
    windows = StreamingBench(root=str(tmp_path / "a"), videos=str(tmp_path), missing="skip", context_s=2.5)
    assert [q.context_start_s for q in windows.streams()[0].questions] == [0.0, 0.5, 2.5]
    make_hub_csv(tmp_path / "b")
    hub = StreamingBench(root=str(tmp_path / "b"), videos=str(tmp_path), missing="skip").streams()
    assert [stream.stream_id for stream in hub] == ["sample_3_real", "sample_12_real"]
    assert hub[0].questions[1].time_s == 5.0
    assert hub[0].questions[0] == first.__class__(**{**vars(first), "meta": hub[0].questions[0].meta})


@pytest.mark.parametrize(
    ("stamp", "expected"), [("00:03:10", 190), ("0:03:10", 190), ("08:01", 481), ("00:00:8", 8), ("01:00:00", 3600)]
)
def test_time_stamps(stamp: str, expected: float) -> None:
    assert seconds(stamp) == expected


def test_proactive_questions_poll_from_the_next_second_to_the_true_moment_and_four_more(tmp_path: Path) -> None:
    (stream,) = made(StreamingBenchProactive, tmp_path).streams()
    land, rain = stream.questions
    assert land.polling.times_s == (2.0, 3.0, 4.0, 5.0, 6.0)
    assert rain.polling.times_s == (3.0, 4.0, 5.0, 6.0)
    assert (land.time_s, land.context_start_s, rain.context_start_s) == (1.0, 1.0, 2.0)
    assert land.meta == {"ground_truth_time_s": 2.0, "tolerance_s": 2.0}
    assert 'Is it the right time to output "Land"?' in land.polling.ask.prompt
    past = StreamingBenchProactive(
        root=str(tmp_path), videos=str(tmp_path), missing="skip", show_past=True, poll_every_s=2.0, patience_s=3.0
    )
    assert [question.context_start_s for question in past.streams()[0].questions] == [0.0, 0.0]
    assert past.streams()[0].questions[0].polling.times_s == (3.0, 5.0)


def test_offline_benchmarks_ask_at_the_end(tmp_path: Path) -> None:
    for kind in (MLVU, EgoSchema, VideoMME):
        streams = made(kind, tmp_path / kind.name).streams()
        assert all(math.isinf(question.time_s) for question in questions(streams).values())
    mlvu = questions(MLVU(root=str(tmp_path / "mlvu"), videos=str(tmp_path), missing="skip").streams())
    assert (mlvu["1_plotQA_0"].answer, mlvu["1_plotQA_0"].group) == ("C", "single_detail")
    assert (mlvu["2_needle_1"].answer, mlvu["2_needle_1"].meta) == (NO_OPTION, {"gold_text": "a small boat"})
    ego = questions(EgoSchema(root=str(tmp_path / "egoschema"), videos=str(tmp_path), missing="skip").streams())
    assert {name: question.answer for name, question in ego.items()} == {"aa-1": "E"}


def test_subtitles_are_those_on_the_frames_that_are_read(tmp_path: Path) -> None:
    made(VideoMME, tmp_path)
    given = {"root": str(tmp_path), "videos": str(tmp_path), "missing": "skip",
             "subtitle_files": str(tmp_path / "subtitle")}  # fmt: skip
    shown = questions(VideoMME(**given, subtitles="frames").streams())
    assert "listed below:\nRow, row, row your boat\nSelect" in shown["001-1"].prompt
    assert (shown["001-1"].meta["has_subtitles"], shown["301-1"].meta["has_subtitles"]) == (True, False)
    assert "every two seconds\nRow" in questions(VideoMME(**given, subtitles="all").streams())["001-1"].prompt
    assert "listed below" not in questions(VideoMME(**given).streams())["001-1"].prompt
    with pytest.raises(ValueError, match=r"dataset.subtitle_files=DIR"):
        VideoMME(root=".", videos=".", subtitles="all")
    with pytest.raises(ValueError, match=r"needs dataset.prompt=official"):
        VideoMME(**given, subtitles="all", prompt="backbone")


def test_tasks_and_limit_choose(tmp_path: Path) -> None:
    chosen = made(OVOBench, tmp_path / "a", tasks=["REC", "EPM"]).streams()
    assert sorted(questions(chosen)) == ["22_0", "22_1", "7"]
    assert len(made(OVOBench, tmp_path / "b", limit=2).streams()) == 2
    with pytest.raises(ValueError, match=r"must be a list of some of CRR, EPM, OJR, REC, SSR"):
        made(OVOBench, tmp_path / "c", tasks=["REC", "XYZ"]).streams()


def test_videos_are_found_in_every_official_layout(tmp_path: Path) -> None:
    root = tmp_path / "a"
    MAKERS["streamingbench"](root, with_videos=False)
    layouts = ("videos/sample_3_real.mp4", "sample_3_real.mp4", "sample_3/video.mp4", "real/sample_3/video.mp4")
    for number, layout in enumerate(layouts):
        videos = tmp_path / str(number)
        (videos / layout).parent.mkdir(parents=True)
        (videos / layout).touch()
        streams = StreamingBench(root=str(root), videos=str(videos), missing="skip").streams()
        assert streams[0].video == videos / layout


def test_missing_videos_are_counted_before_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = MAKERS["ovobench"](tmp_path, with_videos=False)
    video = Path(settings["videos"]) / OVO[0]["video"]
    video.parent.mkdir(parents=True)
    video.touch()
    with pytest.raises(ValueError, match=r"2 of 3 videos are missing \(5 of 7 questions\).*dataset.missing=skip"):
        OVOBench(**settings).streams()
    with caplog.at_level(logging.WARNING):
        assert len(OVOBench(**settings, missing="skip").streams()) == 3
    assert "2 of 3 videos are missing (5 of 7 questions)" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_missing_files_and_folders_are_named(kind: type[OfficialBenchmark], tmp_path: Path) -> None:
    settings = MAKERS[kind.name](tmp_path / "there", with_videos=False)
    kind(**settings).check_files()
    with pytest.raises(ValueError, match=r"dataset.videos=.*nowhere: no such folder"):
        kind(root=settings["root"], videos=str(tmp_path / "nowhere")).check_files()
    with pytest.raises(ValueError, match=r"dataset.root=.*nowhere: no such folder"):
        kind(root=str(tmp_path / "nowhere"), videos=settings["videos"]).check_files()
    with pytest.raises(ValueError, match=rf"dataset.root=.*: no {kind.annotations[0]}"):
        kind(root=settings["videos"], videos=settings["videos"]).check_files()


def test_mistakes_in_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dataset.prompt=backbone: must be one of official, bare"):
        StreamingBenchProactive(root=".", videos=".", prompt="backbone")
    with pytest.raises(ValueError, match=r"dataset.missing=ignore: must be one of error, skip"):
        OVOBench(root=".", videos=".", missing="ignore")
    with pytest.raises(ValueError, match=r"dataset.context_s=0"):
        StreamingBench(root=".", videos=".", context_s=0)
    with pytest.raises(ValueError, match=r"dataset.poll_every_s=0"):
        StreamingBenchProactive(root=".", videos=".", poll_every_s=0)
    with pytest.raises(ValueError, match=r"dataset.decided_by=me: must be one of auto, model, polls"):
        StreamingBenchProactive(root=".", videos=".", decided_by="me")
    with pytest.raises(ValueError, match=r"dataset.history=own"):
        StreamingBenchSQA(root=".", videos=".", history="own")
    write_json(tmp_path / "ovo_bench_new.json", [])
    (tmp_path / "ovo_bench_new.json").write_text("[{")
    with pytest.raises(ValueError, match=r"ovo_bench_new.json is not JSON"):
        OVOBench(root=str(tmp_path), videos=str(tmp_path)).streams()


def test_prompt_styles(tmp_path: Path) -> None:
    own = questions(made(OVOBench, tmp_path / "a", prompt="backbone").streams())
    assert (own["7"].prompt, own["7"].query) == ("", own["7"].text)
    assert own["22_0"].prompt.startswith("\nYou're watching a video")
    bare = questions(made(MLVU, tmp_path / "b", prompt="bare").streams())["1_plotQA_0"]
    assert (bare.chat_template, bare.answer_start, bare.query) == (False, "", bare.prompt)


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [(OVOBench, "I think it is B", True), (StreamingBench, "B.", False), (StreamingBench, " B", True),
     (MLVU, "B) a boat", True), (VideoMME, "B", True), (EgoSchema, "B", True), (EgoSchema, "not B", False)],
)  # fmt: skip
def test_answers_are_judged_by_the_official_rule(kind: type[OfficialBenchmark], text: str, expected: bool) -> None:
    benchmark = kind(root=".", videos=".")
    question = Question("q", 0.0, "?", ("x", "y"), "B", task="EPM")
    assert benchmark.judges_texts
    assert benchmark.score(question, Answer(text, None, "generate")) is expected

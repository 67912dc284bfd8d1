"""Prediction files in the official layouts, and files that are not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from made_predictions import ovo_choice, ovo_forward, ovo_sections, streaming_question, write_ovo, write_streaming

from stc_lab.benchmarks.ovobench import video_name
from stc_lab.benchmarks.predictions import benchmark_of, read_predictions

NO_TEXTS = [
    ({"response": None}, "null"), ({"response": ["A"]}, "a list"), ({}, "no response"), ({"response": " "}, "empty"),
    ({"response": 3}, "a number"), ({"response": {"a": 1}}, "an object"), ({"response": True}, "true or false"),
]  # fmt: skip


def test_ovobench_files_give_one_prediction_per_question_and_probe(tmp_path: Path) -> None:
    imported = read_predictions("ovobench", write_ovo(tmp_path / "M", ovo_sections()))
    by_id = {p.question_id: p for p in imported.predictions}
    assert imported.name == "M" and len(imported.files) == 3 and len(by_id) == 30
    assert by_id["200_2"].answer == "2" and by_id["200_2"].question == "How many times did they clap?"
    assert by_id["200_2"].time_s == 6.0 and by_id["0"].time_s is None
    assert (by_id["201_0"].answer, by_id["202_0"].answer) == ("No", "Yes")
    assert (by_id["0"].stream_id, by_id["0"].group, by_id["203_0"].group) == ("COIN/v0.mp4", "backward", "forward")


def test_all_tasks_in_one_file_and_files_without_some_sections_are_the_same(tmp_path: Path) -> None:
    sections = ovo_sections()
    several = read_predictions("ovobench", write_ovo(tmp_path / "a", sections))
    folder = write_ovo(tmp_path / "b", {"backward": sections["backward"]})
    (folder / "rest.json").write_text(json.dumps({k: v for k, v in sections.items() if k != "backward"}))
    single = write_ovo(tmp_path / "c", sections, split=False) / "M_ALL_offline.json"
    for path in (folder, single):
        found = read_predictions("ovobench", path).predictions
        assert sorted(found, key=lambda p: p.question_id) == sorted(several.predictions, key=lambda p: p.question_id)


@pytest.mark.parametrize(("response", "reason"), NO_TEXTS)
def test_responses_that_are_no_text_have_a_reason(tmp_path: Path, response: dict[str, Any], reason: str) -> None:
    probe = {"realtime": 1, "type": 0, "step": "stir", **response}
    sections = {"backward": [ovo_choice(1, "EPM", "A", **response)], "forward": [ovo_forward(2, "SSR", [probe])]}
    for prediction in read_predictions("ovobench", write_ovo(tmp_path, sections)).predictions:
        assert prediction.text is None and reason in prediction.reason


def test_lists_are_unwrapped_only_when_asked(tmp_path: Path) -> None:
    folder = write_ovo(tmp_path, {"backward": [ovo_choice(1, "EPM", "A", response=["A"])]})
    as_it_is = read_predictions("ovobench", folder)
    assert as_it_is.predictions[0].text is None and "unwrap_lists=true" in as_it_is.notes[0]
    assert read_predictions("ovobench", folder, unwrap_lists=True).predictions[0].text == "A"


def test_second_answers_count_and_are_named(tmp_path: Path) -> None:
    twice = [ovo_choice(1, "EPM", "A", response="A"), ovo_choice(1, "EPM", "A", response="B")]
    imported = read_predictions("ovobench", write_ovo(tmp_path, {"backward": twice}))
    assert [p.question_id for p in imported.predictions] == ["1", "1#2"]
    assert "1 questions have several answers" in imported.notes[0]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data/src_videos/COIN/a.mp4", "COIN/a.mp4"), ("/mnt/x/Ego4D/clips/b.mp4", "Ego4D/clips/b.mp4"),
        ("./other/c.mp4", "other/c.mp4"), ("COIN/a.mp4", "COIN/a.mp4"),
    ],
)  # fmt: skip
def test_videos_are_named_without_the_folders_of_a_machine(path: str, name: str) -> None:
    assert video_name(path) == name


def test_other_files_beside_the_predictions_are_left_out_and_named(tmp_path: Path) -> None:
    folder = write_ovo(tmp_path, ovo_sections())
    (folder / "scores.json").write_text("{}")
    (folder / "README.md").write_text("hello")
    (folder / "._M.json").write_bytes(b"\x00\xff")
    imported = read_predictions("ovobench", folder)
    assert len(imported.predictions) == 30 and imported.notes == (
        "scores.json is left out: it has none of backward, realtime, forward",
    )


def test_streamingbench_files_give_ids_that_match_the_annotation_file(tmp_path: Path) -> None:
    questions = [streaming_question(i, minicpm=" B") for i in range(3)]
    questions[1]["cause"], questions[1]["required_ability"] = "x", "y"
    imported = read_predictions("streamingbench", write_streaming(tmp_path / "f.json", questions))
    assert [p.question_id for p in imported.predictions] == ["sample_1_1", "sample_1_2", "sample_2_1"]
    first = imported.predictions[0]
    assert (first.stream_id, first.time_s, first.text) == ("sample_1_real", 0.0, " B")
    assert first.options == ("a cat.", "a dog.", "a cow.", "a hen.")


@pytest.mark.parametrize(
    ("answer", "text", "reason"),
    [
        ({"m": "B"}, "B", None), ({"m": ["B"]}, "B", None), ({"m": None}, None, "null"), ({}, None, "no response"),
        ({"m": []}, None, "a list"), ({"m": [None]}, None, "null"), ({"m": ""}, None, "empty"),
    ],
)  # fmt: skip
def test_streamingbench_answers_of_all_kinds(tmp_path: Path, answer: dict, text: str | None, reason: str) -> None:
    questions = [streaming_question(0, m="A"), streaming_question(1, **answer)]
    prediction = read_predictions("streamingbench", write_streaming(tmp_path / "f.json", questions)).predictions[1]
    assert prediction.text == text
    assert prediction.reason is None if reason is None else reason in prediction.reason


def test_sequential_questions_are_nested_one_deeper(tmp_path: Path) -> None:
    questions = [{**streaming_question(0, m="B"), "task_type": "Sequential Question Answering"}]
    file = write_streaming(tmp_path / "f.json", questions, part="sqa")
    assert read_predictions("streamingbench_sqa", file).predictions[0].stream_id == "sample_1_sqa"
    with pytest.raises(ValueError, match="has questions of benchmark=streamingbench_sqa"):
        read_predictions("streamingbench", file)


def test_proactive_answers_are_the_last_turn_of_the_dialogue(tmp_path: Path) -> None:
    asked = {"task_type": "Proactive Output", "question": "When?", "time_stamp": "00:00:20",
             "ground_truth_time_stamp": "00:00:29", "ground_truth_output": "3"}  # fmt: skip
    turns = [{"role": "assistant", "content": "yes", "time": 28}, {"role": "assistant", "content": "3", "time": 28}]
    questions = [{**asked, "m": {"answered": 28, "dialog_history": turns}}, {**asked, "m": {"dialog_history": []}}]
    file = write_streaming(tmp_path / "f.json", questions, part="proactive")
    answered, silent = read_predictions("streamingbench_proactive", file).predictions
    assert (answered.text, answered.details, answered.meta) == (
        "3", {"answered_s": 28}, {"ground_truth_time_s": 29.0},
    )  # fmt: skip
    assert silent.text is None and silent.reason == "the dialogue is empty"


def test_the_model_must_be_named_where_there_are_several(tmp_path: Path) -> None:
    file = write_streaming(tmp_path / "f.json", [streaming_question(0, a="A", b="B")])
    with pytest.raises(ValueError, match=r"several keys may be the model's \(a, b\); say which: model=KEY"):
        read_predictions("streamingbench", file)
    assert read_predictions("streamingbench", file, model="b").predictions[0].text == "B"
    with pytest.raises(ValueError, match="model=c: no question .* there are a, b"):
        read_predictions("streamingbench", file, model="c")


def test_layouts_are_told_apart(tmp_path: Path) -> None:
    assert benchmark_of(write_ovo(tmp_path / "M", ovo_sections())) == "ovobench"
    assert benchmark_of(write_streaming(tmp_path / "f.json", [streaming_question(0, m="A")])) == "streamingbench"
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(ValueError, match="neither a run folder nor prediction files"):
        benchmark_of(tmp_path / "x.json")


def mistakes(folder: Path) -> dict[str, tuple[str, Path, str]]:
    write_ovo(folder / "results" / "M", ovo_sections())
    streaming = write_streaming(folder / "s" / "f.json", [streaming_question(0, m="A")])
    plain = write_streaming(folder / "p" / "f.json", [streaming_question(0)])
    for name, text in (("torn", '{"backward": ['), ("notes", '{"a": 1}'), ("list", "[]"), ("rows", "[1]")):
        (folder / f"{name}.json").write_text(text)
    no_gold = write_ovo(folder / "g", {"backward": [{"id": 1, "task": "EPM", "video": "v", "response": "A"}]})
    no_count = write_ovo(folder / "c", {"forward": [ovo_forward(1, "REC", [{"realtime": 1, "response": "1"}])]})
    no_task = write_ovo(folder / "t", {"forward": [ovo_forward(1, "EPM", [])]})
    two = write_streaming(folder / "two" / "a.json", [streaming_question(0, m="A")]).parent
    write_streaming(two / "b.json", [streaming_question(0, m="A")])
    (folder / "empty").mkdir()
    return {
        "absent": ("ovobench", folder / "nowhere", "no such file or folder; give the folder of one model's"),
        "empty": ("ovobench", folder / "empty", "no JSON file in it; give"),
        "parent": ("ovobench", folder / "results", "it holds the folders M: give one of them"),
        "streaming as ovo": ("ovobench", streaming, "looks like StreamingBench: benchmark=streamingbench"),
        "torn": ("ovobench", folder / "torn.json", "is not JSON .* is it a whole file"),
        "notes": ("ovobench", folder / "notes.json", "no answers to OVO-Bench in it"),
        "no gold": ("ovobench", no_gold, "backward item 0 has no ground_truth"),
        "no count": ("ovobench", no_count, "forward item 0: probe 0 has no count"),
        "unknown task": ("ovobench", no_task, "unknown task 'EPM'; forward tasks are REC, SSR, CRR"),
        "ovo as streaming": (
            "streamingbench", folder / "results" / "M" / "M_forward_offline.json", "benchmark=ovobench",
        ),
        "annotations": ("streamingbench", plain, "is it the annotation file"),
        "no questions": ("streamingbench", folder / "list.json", "no list of questions in it"),
        "no entries": ("streamingbench", folder / "rows.json", "entry 0 has no list of questions"),
        "two files": ("streamingbench", two, r"several files \(a.json, b.json\); give one of them"),
        "unknown benchmark": ("mmlu", streaming, "benchmark=mmlu: must be one of ovobench, streamingbench"),
    }  # fmt: skip


def test_mistakes_name_what_is_wrong_and_what_to_do(tmp_path: Path) -> None:
    for name, (benchmark, path, message) in mistakes(tmp_path).items():
        with pytest.raises(ValueError) as caught:
            read_predictions(benchmark, path)
        assert re.search(message, str(caught.value)), f"{name}: {caught.value}"

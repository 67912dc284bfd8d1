"""From prediction files to records and a summary, by hand-computed numbers and by the published ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_predictions import ovo_choice, ovo_sections, streaming_question, write_ovo, write_streaming
from omegaconf import DictConfig, OmegaConf

from stc_lab.benchmarks.predictions import read_predictions
from stc_lab.results import statistics
from stc_lab.results.records import RECORDS_FILE, read_records, read_summary
from stc_lab.results.runs import find_runs, rebuilt
from stc_lab.results.sweep import as_sweep
from stc_lab.score import ScoreSettings, score_predictions


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are rough here; that they are right is tested with the statistics."""
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 199)


def settings(**values: Any) -> DictConfig:
    return OmegaConf.merge(OmegaConf.structured(ScoreSettings), values)


def scored(run_dir: Path, **values: Any) -> dict[str, Any]:
    return score_predictions(settings(**{key: str(value) for key, value in values.items()}), run_dir)


def percent(share: float) -> float:
    return round(100 * share, 2)


def test_ovobench_is_averaged_over_tasks_then_groups(tmp_path: Path) -> None:
    sections = ovo_sections()
    wrong = [item for item in sections["backward"] if item["task"] == "EPM"][:3]
    for item in wrong:
        item["response"] = "D"
    sections["forward"][0]["test_info"][0]["response"] = "many"
    summary = scored(tmp_path / "out", benchmark="ovobench", predictions=write_ovo(tmp_path / "M", sections))
    assert summary["by_task"]["EPM"]["accuracy"] == 0.25
    assert summary["by_task"]["REC"]["accuracy"] == pytest.approx(2 / 3)
    assert summary["by_group"]["backward"]["accuracy"] == pytest.approx((0.25 + 1 + 1) / 3)
    forward = (2 / 3 + 1 + 1) / 3
    assert summary["total"] == summary["accuracy"] == pytest.approx(((0.25 + 2) / 3 + 1 + forward) / 3)
    assert summary["micro_accuracy"] == pytest.approx(26 / 30)
    low, high = summary["accuracy_ci95"]
    assert low < summary["accuracy"] < high


def test_what_is_no_text_counts_as_wrong_and_is_listed(tmp_path: Path) -> None:
    items = [ovo_choice(0, "EPM", "A", response="A")]
    items += [ovo_choice(i, "EPM", "A", **r) for i, r in enumerate([{"response": None}, {"response": ["A"]}, {}], 1)]
    folder = write_ovo(tmp_path / "M", {"backward": items})
    summary = scored(tmp_path / "out", benchmark="ovobench", predictions=folder)
    assert summary["by_task"]["EPM"]["accuracy"] == 0.25
    assert set(summary["completeness"]["not_answered"]) == {"1", "2", "3"}
    records = read_records(tmp_path / "out" / RECORDS_FILE)
    assert [(r.status, r.correct) for r in records] == [("answered", True)] + 3 * [("unanswered", False)]
    assert summary["num_unanswered"] == 3


def test_an_incomplete_folder_says_so_and_has_no_total(tmp_path: Path) -> None:
    folder = write_ovo(tmp_path / "M", {"backward": ovo_sections()["backward"]})
    summary = scored(tmp_path / "out", benchmark="ovobench", predictions=folder)
    found = summary["completeness"]
    assert summary["total"] is None and summary["total_missing"] == "nothing of realtime, forward"
    assert not found["is_complete"] and found["num_expected"] == 3035 and found["absent_by_task"]["REC"] == 698
    assert found["num_absent"] == 3035 - 12 and summary["coverage"] == 12 / 3035
    assert summary["accuracy"] == 1.0  # of what is there


def test_streamingbench_leaves_unanswered_out_of_the_total_only(tmp_path: Path) -> None:
    questions = [streaming_question(i, m=" B" if i < 6 else " A") for i in range(8)]
    questions += [streaming_question(i) for i in range(8, 12)]
    file = write_streaming(tmp_path / "f.json", questions)
    summary = scored(tmp_path / "out", benchmark="streamingbench", predictions=file)
    assert (summary["total"], summary["accuracy"]) == (6 / 8, 6 / 12)
    assert (summary["num_answered"], summary["num_questions"]) == (8, 12)
    assert summary["by_task"]["Counting"]["accuracy_counted"] == 6 / 8
    assert summary["total_ci95"] != summary["accuracy_ci95"]


def test_readings_that_differ_are_reported_with_the_questions(tmp_path: Path) -> None:
    texts = ["B", "B.", "The answer is B", "A"]
    file = write_streaming(tmp_path / "f.json", [streaming_question(i, m=text) for i, text in enumerate(texts)])
    summary = scored(tmp_path / "out", benchmark="streamingbench", predictions=file)
    readings = summary["readings"]
    assert [readings[name]["num_right"] for name in ("official", "strict", "first_character")] == [1, 2, 2]
    assert readings["strict"]["only_here"] == ["sample_1_2"] and readings["strict"]["num_unread"] == 1
    assert "only_here" not in readings["official"]
    records = read_records(tmp_path / "out" / RECORDS_FILE)
    assert [r.prediction for r in records] == ["B", "B", None, "A"]
    assert records[1].details == {"strictly_right": True} and records[0].details == {}
    assert {r.reader for r in records} == {"imported"}


def test_the_same_predictions_give_the_same_files(tmp_path: Path) -> None:
    folder = write_ovo(tmp_path / "M", ovo_sections())
    for name in ("a", "b"):
        scored(tmp_path / name, benchmark="ovobench", predictions=folder)
    for file in (RECORDS_FILE, "summary.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    summary = read_summary(tmp_path / "a")
    assert summary["run"] == {"backbone": "M", "cacher": "unknown", "pruner": "unknown", "dataset": "ovobench"}
    assert summary["rule"]["name"] == "ovobench" and summary["rule"]["source"]


def test_a_result_finds_its_place_among_runs(tmp_path: Path) -> None:
    folder = write_ovo(tmp_path / "M", ovo_sections())
    names = {"backbone": "rekv", "cacher": "none", "pruner": "visionzip", "tokens_per_frame": 49}
    cfg = settings(benchmark="ovobench", predictions=str(folder), made_with=names)
    summary = score_predictions(cfg, tmp_path / "runs" / "out")
    found = find_runs([tmp_path / "runs"])
    assert [run.name for run in found.runs] == ["out"] and not found.left_out
    assert rebuilt(found.runs[0]) == summary
    point = as_sweep(found).points.iloc[0]
    assert (point["pruner"], point["achieved_tokens"], point["accuracy"]) == ("visionzip", 49, 1.0)


def test_the_folder_of_a_run_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "fingerprint.json").write_text("{}")
    with pytest.raises(ValueError, match="this is the folder of a run"):
        scored(tmp_path / "run", benchmark="ovobench", predictions=write_ovo(tmp_path / "M", ovo_sections()))


@pytest.mark.parametrize(
    ("model", "groups", "total"),
    [("LLaVA_Video", (40.40, 63.52, 54.82), 52.91), ("FlashVStream", (27.38, 28.37, 45.09), 33.61)],
)
def test_published_scores_of_ovobench(
    shared_dir: Path, tmp_path: Path, model: str, groups: tuple[float, ...], total: float
) -> None:
    folder = shared_dir / "data" / "predictions" / "ovobench" / model
    summary = scored(tmp_path, benchmark="ovobench", predictions=folder)
    names = ("backward", "realtime", "forward")
    assert tuple(percent(summary["by_group"][name]["accuracy"]) for name in names) == groups
    assert percent(summary["total"]) == total and summary["num_questions"] == 3035 and summary["num_streams"] == 644


@pytest.mark.parametrize(("file", "total", "strict", "answered"), [
    ("tome", 59.36, 59.36, 2500), ("visionzip", 60.42, 38.28, 1584),
])  # fmt: skip
def test_published_scores_of_streamingbench(
    shared_dir: Path, tmp_path: Path, file: str, total: float, strict: float, answered: int
) -> None:
    path = shared_dir / "data" / "predictions" / "streamingbench" / f"{file}.json"
    summary = scored(tmp_path, benchmark="streamingbench", predictions=path)
    assert (percent(summary["total"]), percent(summary["accuracy"])) == (total, strict)
    assert summary["completeness"]["num_answered"] == answered and summary["coverage"] == answered / 2500
    assert summary["completeness"]["is_complete"] is (answered == 2500)


def test_the_annotation_file_adds_times_options_and_absent_questions(shared_dir: Path, tmp_path: Path) -> None:
    source = shared_dir / "data" / "predictions" / "streamingbench" / "tome.json"
    content = json.loads(source.read_text())
    (tmp_path / "part.json").write_text(json.dumps(content[10:60]))
    annotations = shared_dir / "data" / "annotations" / "streamingbench"
    part = scored(
        tmp_path / "part", benchmark="streamingbench", predictions=tmp_path / "part.json", annotations=annotations
    )
    assert part["num_questions"] == 2500 and part["num_failed"] == part["completeness"]["num_absent"] > 2400
    assert part["accuracy"] < 0.1 < part["total"]
    texts = {p.question_id: p.text for p in read_predictions("streamingbench", source).predictions}
    said = [r for r in read_records(tmp_path / "part" / RECORDS_FILE) if r.status == "answered"]
    assert len(said) == part["num_answered"] and all(r.text == texts[r.question_id] for r in said)


def run_score(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stc_lab.score", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_command_line(tmp_path: Path) -> None:
    write_ovo(tmp_path / "M", ovo_sections())
    methods = ("made_with.backbone=rekv", "made_with.pruner=visionzip", "made_with.tokens_per_frame=49")
    done = run_score("benchmark=ovobench", "predictions=M", "hydra.run.dir=out", *methods, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_summary(tmp_path / "out")["run"]["pruner"] == "visionzip"
    assert "INCOMPLETE: 30 of 3035" in done.stdout and "100.00" in done.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.yaml", "records.jsonl", "summary.json",
    ]  # fmt: skip


def test_mistakes_on_the_command_line(tmp_path: Path) -> None:
    done = run_score("benchmark=ovobench", "predictions=nowhere", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("error: predictions=nowhere: no such file or folder")
    assert "Traceback" not in done.stderr
    with pytest.raises(ValueError, match="predictions=...: missing; give the folder or file"):
        score_predictions(settings(benchmark="ovobench"), tmp_path)


def test_scoring_needs_neither_torch_nor_transformers() -> None:
    code = "import sys, stc_lab.score, stc_lab.compare, stc_lab.results.comparison, stc_lab.results.summary; "
    code += "import stc_lab.report.tables, stc_lab.benchmarks.ovobench, stc_lab.benchmarks.streamingbench; "
    code += "sys.exit(bool({'torch', 'transformers', 'lightning'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Differences against a baseline, the paper's numbers, and the report made again over several folders."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from sample_sweep import write_run

from stc_lab.config.schema import ReportSettings
from stc_lab.report.__main__ import as_overrides, report
from stc_lab.report.baselines import RANDOM, UNCOMPRESSED, paired_section
from stc_lab.report.paper import paper_rows
from stc_lab.report.sections import paper_table
from stc_lab.results.sweep import read_sweep


def test_differences_are_this_run_minus_the_other(sweep_dir: Path) -> None:
    sweep = read_sweep(sweep_dir)
    section = paired_section(sweep, "auto")
    accuracy = sweep.points.set_index("run")["accuracy"]
    rows = {row["run"]: row for row in section["rows"] if row["choice"] == UNCOMPRESSED}
    assert len(rows) == len(sweep.points) - 1
    for run, row in rows.items():
        assert row["difference"] == pytest.approx(accuracy[run] - accuracy["pruner=none"])
        assert row["num_better"] - row["num_worse"] == round(row["difference"] * row["num_questions"])
        assert row["low"] <= row["difference"] <= row["high"]
    worst = rows["pruner=random,pruner.budget=16"]
    assert worst["words"].startswith("none + random, 16 tokens is worse than none + none, 196 tokens")


def test_random_at_the_same_budget_and_cacher(sweep_dir: Path) -> None:
    rows = [row for row in paired_section(read_sweep(sweep_dir), "auto")["rows"] if row["choice"] == RANDOM]
    assert {(row["name"], row["other"]) for row in rows} == {
        (f"none + {pruner}, {budget} tokens", f"none + random, {budget} tokens")
        for pruner in ("stc", "uniform")
        for budget in (16, 64, 128)
    }


def test_a_chosen_baseline_comes_first(sweep_dir: Path) -> None:
    section = paired_section(read_sweep(sweep_dir), "pruner=uniform,pruner.budget=64")
    assert section["baselines"][0] == "none + uniform, 64 tokens"
    assert sum(row["choice"] == section["baselines"][0] for row in section["rows"]) == 12
    with pytest.raises(ValueError, match=r"report.baseline=nonsense: must be auto or one of"):
        paired_section(read_sweep(sweep_dir), "nonsense")


def test_the_paper_stands_beside_the_run_of_the_same_budget(tmp_path: Path) -> None:
    row = next(row for row in paper_rows("ovobench") if row.label == "rekv + visionzip")
    tokens = math.floor(196 * row.settings["keep_ratio"])
    write_run(tmp_path / "same", "visionzip", tokens, dataset="ovobench")
    write_run(tmp_path / "other", "visionzip", 100, dataset="ovobench")
    points = read_sweep(tmp_path).points
    rows = {row["label"]: row for row in paper_table(points)}
    accuracy = points.set_index("run").loc["same", "accuracy"]
    assert rows["rekv + visionzip"]["measured"].startswith(f"{100 * accuracy:.1f} %")
    assert rows["rekv + visionzip"]["score"] == f"{row.overall('ovobench'):.1f} %"
    assert rows["rekv"]["measured"] == "-"
    assert paper_table(read_sweep(write_run(tmp_path / "p", "stc", 8)).points) == []


def test_the_report_is_made_again_from_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A summary that was tampered with does not survive; several folders share one picture."""
    first, second = tmp_path / "a", tmp_path / "b"
    write_run(first / "stc", "stc", 64)
    write_run(second / "random", "random", 64)
    path = first / "stc" / "summary.json"
    truth = json.loads(path.read_text())
    path.write_text(json.dumps({**truth, "accuracy": 1.0}))
    report([first, second], tmp_path / "out", ReportSettings(cost="tokens"))
    content = json.loads((tmp_path / "out" / "pareto.json").read_text())
    accuracy = {point["run"]: point["accuracy"] for point in content["points"]}
    assert accuracy["a/stc"] == truth["accuracy"] < 1
    assert set(accuracy) == {"a/stc", "b/random"}
    assert {point["benchmark"] for point in content["points"]} == {"pocket"}
    assert content["cost"] == "tokens"
    assert (tmp_path / "out" / "report.html").is_file() and (tmp_path / "out" / "pareto.png").is_file()


def test_folders_are_plain_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "pruner=it's,budget=8"
    Path(name).mkdir()
    Path("sweep").mkdir()
    assert as_overrides(["sweep", name, "report.cost=tokens", "--cfg"]) == [
        "report.cost=tokens", "--cfg", r"folders=['sweep','pruner=it\'s,budget=8']"]  # fmt: skip
    assert as_overrides(["--help"]) == ["--help"]
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        as_overrides(["nowhere"])


def test_nothing_finished_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no finished run below"):
        report([tmp_path], None, ReportSettings())

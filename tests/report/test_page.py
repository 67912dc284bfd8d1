"""What is written into the page: everything, escaped, and nothing from the network."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from rich.console import Console
from sample_sweep import write_run

from stc_lab.config.schema import ReportSettings
from stc_lab.report.baselines import AUTO, missing_baselines, paired_section
from stc_lab.report.multirun import make_frontier
from stc_lab.report.page import command_of, render, token_maps
from stc_lab.results.runs import find_runs
from stc_lab.results.sweep import read_sweep


@pytest.fixture(scope="module")
def page(report_dir: Path) -> str:
    return (report_dir / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def figures(page: str) -> dict:
    return json.loads(re.search(r'id="figures">(.*?)</script>', page, re.DOTALL).group(1))


def own_part(page: str) -> str:
    """The page without plotly's own code."""
    return re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)


def test_nothing_comes_from_the_network(page: str) -> None:
    addresses = re.findall(r'(?:src|href)="([^"]{0,40})', own_part(page))
    assert addresses and all(address.startswith("data:") for address in addresses)
    assert "@import" not in own_part(page) and "url(" not in own_part(page)


def test_texts_of_data_are_escaped(page: str, figures: dict) -> None:
    assert "<b>odd</b>" not in own_part(page).replace(json.dumps("<b>odd</b>"), "")
    assert "<at most>" not in page and "&lt;at most&gt;" in page
    assert "&lt;b&gt;odd&lt;/b&gt;" in figures["tasks"]["pocket"]["data"][0]["x"]


def test_every_run_is_in_the_table_and_every_other_folder_has_its_reason(page: str, sweep_dir: Path) -> None:
    rows = set(re.findall(r'<tr data-run="([^"]+)" data-benchmark="pocket"(?: class="front")?>', page))
    assert rows == set(read_sweep(sweep_dir).points["run"])
    assert "not finished: 36 questions recorded, no summary" in page


def test_frontier_over_every_cost(figures: dict, sweep_dir: Path) -> None:
    points = read_sweep(sweep_dir).points.set_index("run")
    assert set(figures["frontier"]["pocket"]) == {"latency", "flops", "tokens", "memory", "ttft"}
    for cost, column in (("latency", "latency_ms"), ("tokens", "achieved_tokens"), ("memory", "kv_mib")):
        drawn = {}
        for trace in figures["frontier"]["pocket"][cost]["data"]:
            for run, x, y in zip(trace.get("customdata", []), trace["x"], trace["y"], strict=False):
                drawn[run] = (x, y)
        assert set(drawn) == set(points.index)
        for run, (x, y) in drawn.items():
            assert (x, y) == pytest.approx((points.loc[run, column], 100 * points.loc[run, "accuracy"]))


def test_each_line_joins_the_budgets_of_a_method_with_bars(figures: dict) -> None:
    traces = {trace["name"]: trace for trace in figures["frontier"]["pocket"]["latency"]["data"]}
    methods = {"none + stc", "stc + stc", "none + random", "none + uniform"}
    assert set(traces) == methods | {"uncompressed", "not dominated"}
    line = traces["stc + stc"]
    assert line["text"] == ["16", "64", "128"]
    assert all(length > 0 for side in ("error_x", "error_y") for length in line[side]["array"])
    always = {name for name, trace in traces.items() if trace["meta"]["always"]} if all(
        "meta" in trace for trace in traces.values()) else set()  # fmt: skip
    assert always == {"none + random", "none + uniform", "uncompressed", "not dominated"}


def test_hover_tells_settings_interval_and_achieved_budget(figures: dict) -> None:
    traces = {trace["name"]: trace for trace in figures["frontier"]["pocket"]["latency"]["data"]}
    text = traces["stc + stc"]["hovertext"][1]
    for part in ("tokens per frame 64.0 (asked for 64)", "num_tokens=64", "cacher: name=stc", "36 questions", " % ["):
        assert part in text


def test_stage_bars_hold_the_means_of_the_stages(figures: dict) -> None:
    bars = {trace["name"]: trace["x"] for trace in figures["stages_frame"]["pocket"]["data"]}
    assert list(bars) == ["decode", "preprocess", "vision", "project", "prune", "prefill"]
    assert all(value == 1.0 for value in bars["decode"])
    assert {trace["name"] for trace in figures["stages_question"]["pocket"]["data"]} == {
        "retrieve", "question", "generate"}  # fmt: skip


def test_command_of_a_point_runs_it_alone(sweep_dir: Path) -> None:
    runs = {run.name: run for run in find_runs([sweep_dir]).runs}
    command = command_of(runs["cacher=stc,pruner=stc,pruner.budget=16"])
    assert command == "python -m stc_lab cacher=stc pruner=stc pruner.budget=16"


def test_command_of_a_baseline_has_no_methods(tmp_path: Path) -> None:
    write_run(tmp_path / "p", "stc", 16)
    baseline = write_run(tmp_path / "p" / "baseline", "none", 196)
    for left in (".hydra/overrides.yaml", "environment.json"):
        (baseline / left).unlink()
    runs = {run.name: run for run in find_runs([tmp_path]).runs}
    assert command_of(runs["p/baseline"]) == "python -m stc_lab cacher=none pruner=none"


def test_a_picture_travels_in_the_page(page: str, sweep_dir: Path) -> None:
    assert own_part(page).count("data:image/png;base64,") == 1
    assert token_maps(find_runs([sweep_dir]).runs, limit=0) == []


def test_missing_baselines_are_named_with_what_adds_them(sweep_dir: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "only", "stc", 32)
    write_run(tmp_path / "cached", "none", 196, cacher="stc")
    (note,) = missing_baselines(read_sweep(tmp_path).points)
    assert "the uncompressed run" in note.text and "random" in note.text and "uniform" in note.text
    assert note.command.startswith("cacher=none pruner=none,random,uniform")
    assert note.command.endswith("pruner.budget=32")
    assert not any("random" in note.text for note in missing_baselines(read_sweep(sweep_dir).points))


def test_a_sweep_without_times_or_scores_has_a_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "imported", "stc", 32)
    summary = json.loads((folder / "summary.json").read_text())
    for key in ("latency_ms", "frame_ms", "ttft_ms", "flops_per_frame", "kv_bytes", "tokens_per_frame"):
        summary.pop(key)
    summary |= {"accuracy": None, "accuracy_ci95": None, "by_task": {}}
    (folder / "summary.json").write_text(json.dumps(summary))
    sweep = read_sweep(tmp_path)
    assert "imported" in render(sweep, ReportSettings(), paired_section(sweep, AUTO))


def test_refused_points_are_listed_apart_in_the_page_and_the_terminal(tmp_path: Path) -> None:
    write_run(tmp_path / "one", "stc", 32)
    (tmp_path / "not_legal").mkdir()
    (tmp_path / "not_legal" / "refused.json").write_text(json.dumps({"reason": "memory=rekv: it needs places"}))
    with (tmp_path / "printed.txt").open("w") as file:
        sweep = make_frontier(tmp_path, Console(file=file, width=200))
    assert "refused: not_legal: memory=rekv: it needs places" in (tmp_path / "printed.txt").read_text()
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Refused</h2>" in page and "<h2>Left out</h2>" not in page and ", 1 refused" in page
    assert sweep.left_out == {}

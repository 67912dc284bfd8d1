"""The W&B report is described without a connection."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("wandb_workspaces")

from stc_lab.report.tracking import COST_AXES as AXES
from stc_lab.report.tracking import KNOBS, SPEC_FILE, publish
from stc_lab.results.axes import COSTS


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def find(node, key: str) -> list:
    if isinstance(node, dict):
        return ([node[key]] if key in node else []) + [found for value in node.values() for found in find(value, key)]
    return [found for value in node for found in find(value, key)] if isinstance(node, list) else []


def test_offline_report_is_described_with_the_frontier_first(tmp_path: Path) -> None:
    said = publish([Path("outputs/sweep")], tmp_path, "tokens", "team/lab")
    assert "wandb sync outputs/sweep" in said and "wandb login" in said
    spec = json.loads((tmp_path / SPEC_FILE).read_text())
    assert spec["project"] == {"name": "lab", "entityName": "team"}
    panels = [c for c in find(spec, "config") if "xAxis" in c]
    assert panels[0]["xAxis"] == "summary:axis/achieved_tokens"
    assert {panel["xAxis"] for panel in panels} == {f"summary:{axis}" for axis in AXES.values()}
    assert {panel["yAxis"] for panel in panels} == {"summary:axis/accuracy"}


def test_every_cost_has_an_axis_that_runs_log() -> None:
    from omegaconf import OmegaConf

    from stc_lab.report.tracking import axis_scalars

    assert set(AXES) == set(COSTS)
    summary = {"accuracy": 0.5, "frame_ms": {"mean": 1.0}, "ttft_ms": {"median": 1.0}, "kv_bytes": {"device": 8},
               "flops_per_frame": {"vision": 1}, "tokens_per_frame": {"achieved": 2.0},
               "budgets": {"tokens_read": {"mean": 3.0}, "bytes_kept": {"max": 4}}}  # fmt: skip
    assert {"axis/accuracy", *AXES.values()} <= set(axis_scalars(OmegaConf.to_container(OmegaConf.create(summary))))


def test_knobs_are_summary_scalars_of_runs() -> None:
    from hydra import compose, initialize_config_dir

    from stc_lab.config import conf_dir
    from stc_lab.report.tracking import knob_scalars

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("config", overrides=["pruner.budget=16"])
    knobs = knob_scalars(cfg)
    assert set(KNOBS) <= set(knobs)
    assert knobs["knob/pruner_num_tokens"] == 16
    assert not any("." in name for name in knobs)


def test_memories_have_colours_of_their_own(tmp_path: Path) -> None:
    from stc_lab.report.tracking import build_report, memory_colors, spec_of
    from stc_lab.results.runs import Run

    def run(name: str, memory: str) -> Run:
        (tmp_path / name / "wandb" / f"offline-run-20260101_000000-{name}").mkdir(parents=True)
        return Run(name, tmp_path / name, name, {"backbone.name": "rekv", "memory.name": memory}, {})

    runs = [run("a1", "rekv"), run("b2", "recent"), run("c3", "rekv")]
    colors = memory_colors(runs)
    assert colors["a1"] == colors["c3"] != colors["b2"]
    assert memory_colors(runs[::2]) == {}
    assert colors in find(spec_of(build_report("bytes", "lab", colors=colors)), "customRunColors")

"""Points of a multirun: equal ones run once, the uncompressed one is shown beside the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig
from run_cfg import run_experiment

from stc_lab import experiment
from stc_lab.results.sweep import read_sweep

NONE = {"_target_": "stc_lab.pruners.none.NoPruner", "name": "none"}


@pytest.fixture(autouse=True)
def _in_a_multirun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "_is_multirun", lambda: True)


def test_equal_points_run_once(make_cfg: Callable[..., DictConfig], tmp_path: Path) -> None:
    log = tmp_path / "asked.txt"
    summaries = []
    for budget in (2, 4):
        cfg = make_cfg(dataset__limit=2, pruner={**NONE, "budget": budget}, backbone__log=str(log))
        summaries.append(run_experiment(cfg, tmp_path / str(budget)))
    assert summaries[0] == summaries[1]
    assert len(log.read_text().splitlines()) == 6
    assert json.loads((tmp_path / "4" / "duplicate_of.json").read_text())["run"] == "../2"
    assert len(read_sweep(tmp_path).points) == 1


def test_a_point_whose_equal_is_gone_runs_itself(make_cfg: Callable[..., DictConfig], tmp_path: Path) -> None:
    cfg = make_cfg(dataset__limit=1)
    for name in ("a", "b"):
        run_experiment(cfg, tmp_path / name)
    (tmp_path / "a" / "summary.json").unlink()
    run_experiment(cfg, tmp_path / "b")
    assert (tmp_path / "b" / "summary.json").exists()
    assert not (tmp_path / "b" / "duplicate_of.json").exists()


def test_baselines_of_several_points_run_once(make_cfg: Callable[..., DictConfig], tmp_path: Path) -> None:
    log = tmp_path / "asked.txt"
    for budget in (2, 4):
        cfg = make_cfg(baseline=True, dataset__limit=1, pruner__budget=budget, backbone__log=str(log))
        run_experiment(cfg, tmp_path / str(budget))
    assert len(log.read_text().splitlines()) == 3 * 3
    points = read_sweep(tmp_path).points
    assert sorted(points["requested_tokens"]) == [2, 4, 9]
    assert points.loc[points["is_uncompressed"], "run"].tolist() == ["2/baseline"]


def test_the_uncompressed_sibling_is_shown(
    make_cfg: Callable[..., DictConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_experiment(make_cfg(dataset__limit=1, pruner=NONE), tmp_path / "full")
    assert "uncompressed \u2503" not in capsys.readouterr().out
    run_experiment(make_cfg(dataset__limit=1), tmp_path / "pruned")
    assert "uncompressed \u2503" in capsys.readouterr().out

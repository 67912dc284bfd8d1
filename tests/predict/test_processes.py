"""Runs that are killed in the middle, and runs over several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf
from run_cfg import run_experiment

from stc_lab.predict.trainer import EXIT_STATUS
from stc_lab.results.records import RECORDS_FILE, answer_view, read_records

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "src"
MakeCfg = Callable[..., DictConfig]


def run_elsewhere(cfg: DictConfig, run_dir: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """``run_experiment`` in a new process, with plain output."""
    file = tmp_path / "cfg.yaml"
    OmegaConf.save(cfg, file)
    path = os.pathsep.join([str(SOURCES), str(HERE)])
    return subprocess.run(
        [sys.executable, str(HERE / "run_cfg.py"), str(file), str(run_dir)],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip


def answers(run_dir: Path) -> list[str]:
    views = [answer_view(record) for record in read_records(run_dir / RECORDS_FILE)]
    return sorted(json.dumps(view, sort_keys=True) for view in views)


@pytest.mark.parametrize("kill_with, status", [("SIGKILL", -signal.SIGKILL), ("SIGTERM", EXIT_STATUS)])
def test_killed_and_resumed_gives_the_same_records(
    make_cfg: MakeCfg, tmp_path: Path, kill_with: str, status: int
) -> None:
    marker = tmp_path / "kill"
    cfg = make_cfg(backbone__kill_at="v2@2.6", backbone__kill_with=kill_with, backbone__marker=str(marker))
    run_experiment(cfg, tmp_path / "undisturbed")
    marker.touch()
    killed = run_elsewhere(cfg, tmp_path / "killed", tmp_path)
    assert killed.returncode == status, killed.stderr
    assert len(read_records(tmp_path / "killed" / RECORDS_FILE)) == 7
    marker.unlink()
    run_experiment(cfg, tmp_path / "killed")
    assert answers(tmp_path / "killed") == answers(tmp_path / "undisturbed")


@pytest.mark.slow
def test_a_multirun_from_the_command_line_leaves_its_frontier(dataset: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "conf" / "backbone").mkdir(parents=True)
    (tmp_path / "conf" / "backbone" / "fake.yaml").write_text(
        "_target_: fake_backbone.FakeBackbone\nname: fake\ntokens_per_frame: 9\n"
    )
    sweep = tmp_path / "sweep"
    done = subprocess.run(
        [sys.executable, "-m", "stc_lab", "-m", f"hydra.searchpath=[file://{tmp_path / 'conf'}]", "backbone=fake",
         "pruner=uniform,none", "pruner.budget=2,4,99", "dataset=folder", f"dataset.videos={dataset['videos']}",
         f"dataset.questions={dataset['questions']}", f"hydra.sweep.dir={sweep}", "video.reader=pyav"],
        capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(SOURCES), str(HERE)])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    content = json.loads((sweep / "pareto.json").read_text())
    assert sorted(point["requested_tokens"] for point in content["points"]) == [2, 4, 9]
    ((refused, reason),) = content["refused"].items()
    assert "budget=99" in refused and "pruner.budget=99" in reason
    assert not content["left_out"]
    assert (sweep / "pareto.png").stat().st_size > 10_000
    assert len(list(sweep.glob("*/duplicate_of.json"))) == 2


@pytest.mark.slow
def test_two_processes_share_the_streams_and_give_the_same_records(make_cfg: MakeCfg, tmp_path: Path) -> None:
    run_experiment(make_cfg(), tmp_path / "one")
    done = run_elsewhere(make_cfg(trainer__devices=2), tmp_path / "two", tmp_path)
    assert done.returncode == 0, done.stderr
    assert answers(tmp_path / "two") == answers(tmp_path / "one")
    assert not list((tmp_path / "two").glob("records.rank*"))
    assert len(done.stderr.splitlines()) == 2, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kill_with", ["SIGKILL", "SIGTERM"])
def test_two_processes_resume_what_one_began(make_cfg: MakeCfg, tmp_path: Path, kill_with: str) -> None:
    marker = tmp_path / "kill"
    marker.touch()
    cfg = make_cfg(backbone__kill_at="v2@2.6", backbone__kill_with=kill_with, backbone__marker=str(marker))
    cfg.trainer.devices = 2
    killed = run_elsewhere(cfg, tmp_path / "run", tmp_path)
    assert killed.returncode != 0
    marker.unlink()
    done = run_elsewhere(cfg, tmp_path / "run", tmp_path)
    assert done.returncode == 0, done.stderr
    cfg.trainer.devices = 1
    run_experiment(cfg, tmp_path / "undisturbed")
    assert answers(tmp_path / "run") == answers(tmp_path / "undisturbed")

"""The command line from end to end, with the experiment itself replaced by a function of the settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import stc_lab as stc_lab_package
from stc_lab.cli import objective

SUMMARY = {"accuracy": 0.75, "latency_ms": {"vision": {"median": 12}}, "coverage": None, "note": "text"}


@pytest.fixture
def stc_lab(command_line):
    """``stc_lab("pruner.budget=8")`` runs the command line in a fresh folder and returns the exit status."""
    runs: list[tuple[OmegaConf, Path]] = []

    def run_experiment(settings, run_dir):
        cfg = settings.cfg
        runs.append((cfg, run_dir))
        if cfg.pruner.budget == 13:
            raise RuntimeError("thirteen")
        if cfg.pruner.budget == 14:
            raise KeyboardInterrupt
        return SUMMARY

    command = command_line(run_experiment)
    command.runs = runs
    return command


def test_a_run_leaves_settings_and_environment(stc_lab, tmp_path):
    assert stc_lab("pruner.budget=8", "hydra.run.dir=run") == 0
    saved = OmegaConf.load(tmp_path / "run" / "config.yaml")
    assert (saved.pruner.budget, saved.cacher.threshold) == (8, None)
    assert saved.paths.run_dir == str(tmp_path / "run")
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["command"].endswith("pruner.budget=8 hydra.run.dir=run")
    assert environment["torch"]["tf32"] == {"matmul": False, "cudnn": False}
    assert torch.backends.cudnn.allow_tf32
    assert (tmp_path / "run" / ".hydra" / "overrides.yaml").is_file()


def test_default_folder_is_under_outputs(stc_lab):
    assert stc_lab() == 0
    (_, run_dir), *_ = stc_lab.runs
    assert run_dir.relative_to(Path.cwd()).parts[:2] == ("outputs", "runs")


def test_settings_are_printed_as_a_tree(stc_lab, capsys):
    stc_lab("cacher.threshold=0.85")
    printed = capsys.readouterr().out
    assert "cacher: stc" in printed
    assert "threshold: 0.85" in printed
    assert "_target_" not in printed


def test_settings_need_not_be_printed(stc_lab, capsys):
    stc_lab("print_config=false")
    assert capsys.readouterr().out == ""


def test_same_folder_again_is_allowed(stc_lab):
    assert stc_lab("hydra.run.dir=run") == 0
    assert stc_lab("hydra.run.dir=run") == 0
    assert len(stc_lab.runs) == 2


def test_a_refused_run_leaves_the_settings_of_the_folder(stc_lab, tmp_path):
    assert stc_lab("pruner.budget=8", "hydra.run.dir=run") == 0
    assert stc_lab("pruner.budget=13", "hydra.run.dir=run") == 1
    assert OmegaConf.load(tmp_path / "run" / "config.yaml").pruner.budget == 8


def test_an_error_is_one_line_and_a_file(stc_lab, tmp_path, capsys):
    assert stc_lab("pruner.budget=13", "hydra.run.dir=run") == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: RuntimeError: thirteen")
    error = json.loads((tmp_path / "run" / "error.json").read_text())
    assert error["reason"] == "RuntimeError: thirteen"
    assert "run_experiment" in "".join(error["traceback"])


def test_success_clears_an_earlier_error(stc_lab, tmp_path):
    stc_lab("pruner.budget=13", "hydra.run.dir=run")
    stc_lab("pruner.budget=8", "hydra.run.dir=run")
    assert not (tmp_path / "run" / "error.json").exists()


def test_full_traceback_on_request(stc_lab, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(RuntimeError, match="thirteen"):
        stc_lab("pruner.budget=13")


@pytest.mark.parametrize(("mode", "where"), [([], "hydra.run.dir="), (["-m"], "hydra.sweep.dir=")])
def test_an_interrupt_says_how_to_go_on(stc_lab, capsys, mode, where):
    assert stc_lab(*mode, "pruner.budget=14") == 130
    assert where in capsys.readouterr().err


def test_multirun_runs_every_combination_in_its_own_folder(stc_lab):
    assert stc_lab("-m", "pruner=none,stc", "pruner.budget=16,32") == 0
    points = {run_dir.name: (cfg.pruner.name, cfg.pruner.budget) for cfg, run_dir in stc_lab.runs}
    assert points == {
        f"pruner={name},pruner.budget={budget}": (name, budget) for name in ("none", "stc") for budget in (16, 32)
    }


def test_a_failed_point_does_not_stop_the_others_but_shows_in_the_exit_status(stc_lab, capsys):
    assert stc_lab("-m", "pruner.budget=13,0,32", "hydra.sweep.dir=sweep") == 1
    assert [cfg.pruner.budget for cfg, _ in stc_lab.runs] == [13, 32]
    printed = capsys.readouterr().err
    assert "error: RuntimeError: thirteen" in printed
    assert "pruner.budget=0" in printed
    assert "error: 2 of the runs in sweep failed: pruner.budget=0; pruner.budget=13" in printed


def test_a_point_that_makes_no_sense_is_refused_and_no_failure(stc_lab, tmp_path, capsys):
    arguments = ("-m", "pruner.budget=500,32", "hydra.sweep.dir=sweep")
    assert stc_lab(*arguments) == 0
    assert [cfg.pruner.budget for cfg, _ in stc_lab.runs] == [32]
    printed = capsys.readouterr().err
    assert "refused: pruner.budget=500: a frame has 196 tokens" in printed
    assert "1 of the runs in sweep were refused: pruner.budget=500" in printed
    folder = tmp_path / "sweep" / "pruner.budget=500"
    assert "a frame has 196 tokens" in json.loads((folder / "refused.json").read_text())["reason"]
    assert not (folder / "error.json").exists()
    assert stc_lab("pruner.budget=500", "hydra.run.dir=run") == 1  # asked for by itself it is a mistake


def test_a_memory_that_a_model_was_not_trained_with_is_refused(stc_lab, capsys):
    assert stc_lab("-m", "backbone=rekv,dispider", "memory=rekv,recent", "hydra.sweep.dir=sweep") == 0
    assert {cfg.memory.name for cfg, _ in stc_lab.runs} == {"rekv", "recent"}
    assert {cfg.backbone.name for cfg, _ in stc_lab.runs} == {"rekv"}
    assert "memory=recent: backbone=dispider was trained with a memory of its own" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["backbone.topk=8"], "backbone.topk=8: this setting moved; write memory.topk=8"),
        (["+backbone.topk=8"], "backbone.topk=8: this setting moved; write memory.topk=8"),
        (["memory=recent", "backbone.topk=8"], "write memory=rekv memory.topk=8"),
        (["backbone=livecc", "backbone.mode=oneshot"], "write memory=oneshot"),
    ],
)
def test_a_setting_that_moved_to_the_memory_is_named(stc_lab, capsys, arguments, advice):
    assert stc_lab(*arguments) == 1
    assert advice in capsys.readouterr().err


def test_experiment_multirun_takes_its_points_from_the_file(stc_lab):
    assert stc_lab("-m", "experiment=stc_vs_random") == 0
    points = {(cfg.pruner.name, cfg.pruner.budget) for cfg, _ in stc_lab.runs}
    assert points == {(name, budget) for name in ("stc", "random") for budget in (16, 32, 64, 128)}


def test_experiment_of_several_runs_without_multirun_is_pointed_out(stc_lab, capsys):
    assert stc_lab("experiment=stc_vs_random") == 0
    assert "add -m" in capsys.readouterr().err


def test_a_command_line_that_does_not_compose_is_explained(stc_lab, capsys):
    assert stc_lab("pruner.bugdet=3") == 1
    assert "Did you mean 'budget'?" in capsys.readouterr().err


def test_python_runs_what_the_command_line_runs(monkeypatch, tmp_path):
    monkeypatch.setattr("stc_lab.experiment.run_experiment", lambda settings, run_dir: (settings, run_dir))
    settings, run_dir = stc_lab_package.run("pruner.budget=8", run_dir=tmp_path / "run")
    assert (settings.pruner.budget, settings.cfg.pruner.budget, run_dir) == (8, 8, tmp_path / "run")
    with pytest.raises(ValueError, match=r"pruner.budget=0"):
        stc_lab_package.run("pruner.budget=0", run_dir=tmp_path)


def test_objective():
    assert objective(SUMMARY, "accuracy") == 0.75
    assert objective(SUMMARY, OmegaConf.create(["accuracy", "latency_ms.vision.median"])) == (0.75, 12.0)
    assert objective(SUMMARY, "coverage") != objective(SUMMARY, "coverage")


@pytest.mark.parametrize(
    ("key", "message"), [("speed", "no 'speed'.*but accuracy"), ("latency_ms.total", "but vision"), ("note", "'text'")]
)
def test_objective_that_is_not_there(key, message):
    with pytest.raises(ValueError, match=message):
        objective(SUMMARY, key)

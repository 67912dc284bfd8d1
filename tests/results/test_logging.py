"""Summary numbers in a logger, and an end that tells success from failure."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from stc_lab.results.logging import result_logger, scalars

SUMMARY = {
    "accuracy": 0.8,
    "accuracy_ci95": [0.7, 0.9],
    "latency_ms": {"vision": {"median": 3.0}},
    "frame_ms": None,
    "device": "cpu",
    "ok": True,
}


def make_cfg(name: str, folder: Path, **settings) -> DictConfig:
    target = {"csv": "stc_lab.loggers.csv_logger", "wandb": "stc_lab.loggers.wandb_logger"}[name]
    node = {"_target_": target, "name": name, "save_dir": str(folder), **settings}
    return OmegaConf.create({"seed": 3, "logger": node})


def test_numbers_are_flat_and_texts_are_left_out() -> None:
    assert scalars(SUMMARY) == {
        "accuracy": 0.8,
        "accuracy_ci95/low": 0.7,
        "accuracy_ci95/high": 0.9,
        "latency_ms/vision/median": 3.0,
    }


def test_csv(tmp_path: Path) -> None:
    with result_logger(make_cfg("csv", tmp_path)) as log_summary:
        log_summary(SUMMARY)
    with (tmp_path / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["accuracy"]) == 0.8


def test_without_a_logger_nothing_is_written(tmp_path: Path) -> None:
    with result_logger(OmegaConf.create({"logger": {"name": "none"}})) as log_summary:
        log_summary(SUMMARY)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_wandb_offline_ends_with_the_right_exit_code(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    codes, finish = [], wandb.Run.finish

    def note_and_finish(run: wandb.Run, exit_code: int | None = None) -> None:
        codes.append(exit_code)
        finish(run, exit_code)

    monkeypatch.setattr(wandb.Run, "finish", note_and_finish)
    monkeypatch.setenv("WANDB_SILENT", "true")
    try:
        with result_logger(make_cfg("wandb", tmp_path, mode="offline")) as log_summary:
            log_summary(SUMMARY)
            if fails:
                raise RuntimeError("broken")
    except RuntimeError:
        assert fails
    assert codes == [int(fails)]
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))

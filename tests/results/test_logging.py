"""Summary numbers in a logger, and an end that tells success from failure."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from stc_lab.config import conf_dir
from stc_lab.report import tracking
from stc_lab.report.tracking import result_logger, scalars
from stc_lab.results.records import RECORDS_FILE, Record, write_records

sys.path.insert(0, str(Path(__file__).parent))
from offline_wandb import read_run

SUMMARY = {
    "accuracy": 0.8,
    "accuracy_ci95": [0.7, 0.9],
    "latency_ms": {"vision": {"mean": 3.0}},
    "frame_ms": None,
    "device": "cpu",
    "ok": True,
}


@pytest.fixture
def settings() -> Callable[..., DictConfig]:
    """``settings("logger=wandb")``: the composed configuration."""

    def composed(*overrides: str) -> DictConfig:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return compose("config", overrides=list(overrides))

    return composed


def make_cfg(name: str, folder: Path, **settings) -> DictConfig:
    target = {"csv": "stc_lab.report.tracking.csv_logger", "wandb": "stc_lab.report.tracking.wandb_logger"}[name]
    node = {"_target_": target, "name": name, "save_dir": str(folder), **settings}
    return OmegaConf.create({"seed": 3, "logger": node})


def test_numbers_are_flat_and_texts_are_left_out() -> None:
    assert scalars(SUMMARY) == {
        "accuracy": 0.8,
        "accuracy_ci95/low": 0.7,
        "accuracy_ci95/high": 0.9,
        "latency_ms/vision/mean": 3.0,
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


def finished_run(folder: Path) -> dict:
    """A run folder with two records and a picture; returns its summary."""
    records = [
        Record(
            fingerprint="f", stream_id="s", question_id=f"q{number}", task="t", group="", time_s=1.0, question="what?",
            options=["x", "y"], answer="A", status="answered", prediction="A", correct=True, text="A)",
        )
        for number in range(2)
    ]  # fmt: skip
    write_records(folder / RECORDS_FILE, records)
    (folder / "token_maps").mkdir()
    for suffix in ("png", "gif"):
        Image.new("RGB", (8, 4)).save(folder / "token_maps" / f"s.{suffix}")
    return {**SUMMARY, "tokens_per_frame": {"achieved": 16.0, "requested": 16}, "frame_ms": {"mean": 7.0, "p90": 9.0}}


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_wandb_offline_holds_everything_and_ends_with_the_right_exit_code(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Callable[..., DictConfig]
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    summary = finished_run(tmp_path)
    cfg = settings("logger=wandb", "logger.mode=offline", f"logger.save_dir={tmp_path}", "pruner.budget=16")
    with suppress(RuntimeError), result_logger(cfg) as log_result:
        log_result(summary, tmp_path)
        if fails:
            raise RuntimeError("broken")
    run = read_run(tmp_path)
    assert run["exit_code"] == int(fails)
    assert run["config"]["pruner"]["budget"] == 16
    for name, value in {"axis/accuracy": 0.8, "axis/accuracy_low": 0.7, "axis/latency_ms": 7.0, "axis/vision_ms": 3.0,
                        "axis/achieved_tokens": 16.0, "knob/pruner_num_tokens": 16, "knob/pruner_name": "stc",
                        "latency_ms/vision/mean": 3.0}.items():  # fmt: skip
        assert run["summary"][name] == value, name
    (table,) = run["folder"].glob("files/media/table/*.json")
    content = json.loads(table.read_text())
    assert [row[content["columns"].index("question_id")] for row in content["data"]] == ["q0", "q1"]
    assert list(run["folder"].glob("files/media/images/token_maps/*.png"))
    assert list(run["folder"].glob("files/media/videos/token_maps/*.gif"))
    assert ["records.jsonl"] in [sorted(paths) for paths in run["artifacts"].values()]


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Callable[..., DictConfig]
) -> None:
    monkeypatch.setattr(tracking, "LONGEST_START_S", 3.0)
    for name, value in {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_SILENT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with result_logger(settings("logger=wandb", f"logger.save_dir={tmp_path}")) as log_result:
        log_result(SUMMARY)
    # The service beside this process writes the last record; it may come a little late on a busy machine.
    deadline_s = time.monotonic() + 30
    while read_run(tmp_path)["exit_code"] is None and time.monotonic() < deadline_s:
        time.sleep(0.2)
    assert read_run(tmp_path)["exit_code"] == 0

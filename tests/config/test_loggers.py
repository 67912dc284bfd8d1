"""Loggers need no one at the keyboard."""

from __future__ import annotations

import pytest

from stc_lab.config import build
from stc_lab.report.tracking import wandb_mode


@pytest.fixture
def _no_key(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.mark.usefixtures("_no_key")
def test_wandb_is_offline_without_a_key():
    assert wandb_mode("auto") == "offline"
    with pytest.raises(ValueError, match="wandb login"):
        wandb_mode("online")


@pytest.mark.usefixtures("_no_key")
def test_wandb_is_online_with_a_key(monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert wandb_mode("auto") == "online"
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert wandb_mode("auto") == "online"


@pytest.mark.usefixtures("_no_key")
def test_environment_wins_over_auto(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode("auto") == "disabled"
    assert wandb_mode("offline") == "offline"


def test_csv_file_lies_in_the_folder_itself(settings, tmp_path):
    logger = build(settings("logger=csv", f"logger.save_dir={tmp_path}").logger)
    logger.log_metrics({"accuracy": 0.5}, step=0)
    logger.finalize("success")
    assert "accuracy" in (tmp_path / "metrics.csv").read_text()


def test_no_logger_is_nothing(settings):
    assert build(settings().logger) is None

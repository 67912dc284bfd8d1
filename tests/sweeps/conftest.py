"""The command line with the experiment itself replaced by a function of the settings."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from stc_lab.cli import main

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


@pytest.fixture
def stc_lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """``stc_lab("-m", "pruner.budget=8,16")`` runs the command line in a fresh folder and returns the exit status.

    ``stc_lab.runs`` lists the settings of the runs, ``stc_lab.result`` makes a summary from settings.
    """

    def run_experiment(cfg: DictConfig, run_dir: Path) -> dict:
        command.runs.append(cfg)
        return command.result(cfg)

    def command(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["stc_lab", *arguments])
        GlobalHydra.instance().clear()
        try:
            main()
        except SystemExit as exit_:
            return exit_.code
        return 0

    monkeypatch.setitem(sys.modules, "stc_lab.predict.run", SimpleNamespace(run_experiment=run_experiment))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.chdir(tmp_path)
    command.runs, command.result = [], lambda cfg: {"accuracy": 0.5, "frame_ms": {"mean": 1.0}}
    return command

"""The command line with the experiment itself replaced by a function of the settings."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stc_lab.config import RunSettings

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


@pytest.fixture
def stc_lab(command_line: Callable[[Callable], Callable[..., int]]) -> Callable[..., int]:
    """``stc_lab("-m", "pruner.budget=8,16")`` runs the command line in a fresh folder and returns the exit status.

    ``stc_lab.runs`` lists the settings of the runs, ``stc_lab.result`` makes a summary from settings.
    """

    def run_experiment(settings: RunSettings, run_dir: Path) -> dict:
        command.runs.append(settings.cfg)
        return command.result(settings.cfg)

    command = command_line(run_experiment)
    command.runs, command.result = [], lambda cfg: {"accuracy": 0.5, "frame_ms": {"mean": 1.0}}
    return command

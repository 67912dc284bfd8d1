"""A run from its configuration alone; in a process of its own: ``python run_cfg.py CONFIG_YAML RUN_DIR``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from stc_lab.config import RunSettings
from stc_lab.experiment import run_experiment as run_settings


def run_experiment(cfg: DictConfig, run_dir: Path) -> dict[str, Any]:
    """The experiment without the checks of the command line, which would not know the fake backbone."""
    return run_settings(RunSettings.of(cfg), run_dir)


if __name__ == "__main__":
    run_experiment(OmegaConf.load(sys.argv[1]), Path(sys.argv[2]))

"""A run in a process of its own: ``python run_cfg.py CONFIG_YAML RUN_DIR``."""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import OmegaConf

from stc_lab.predict.run import run_experiment

if __name__ == "__main__":
    run_experiment(OmegaConf.load(sys.argv[1]), Path(sys.argv[2]))

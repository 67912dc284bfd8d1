"""The command line: ``python -m stc_lab`` and the console script ``stc_lab``."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.console import Console

from stc_lab.config import conf_dir, environment, print_config, save_config, validate
from stc_lab.config.errors import (
    RefusedPair,
    clear_failure,
    quiet_transformers,
    record_failure,
    record_refusal,
    suggest,
    wants_traceback,
)  # fmt: skip

log = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
ENVIRONMENT_FILE = "environment.json"
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def main() -> None:
    """Compose the settings from the command line and run them; exit status 1 when anything fails."""
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(run)()
    except SystemExit as exit_:
        suggest(exit_.__context__)
        raise


def run(cfg: DictConfig) -> float | tuple[float, ...] | None:
    """One run, as Hydra calls it. Returns the objective for a sweeper; ``None`` for a point of a multirun without one,
    because it failed or because it makes no sense and was refused."""
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    is_multirun = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        clear_failure(run_dir)
        return execute(cfg, run_dir, is_multirun)
    # Each point of a multirun comes here by itself; what it raises must not end the others.
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the one into the other
        where = f"hydra.sweep.dir={run_dir.parent}" if is_multirun else f"hydra.run.dir={run_dir}"
        print(f"interrupted: the same command with {where} goes on where this stopped", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:  # the outermost boundary: whatever it is, say it, keep it, go on with the next point
        if wants_traceback() and not is_multirun:
            raise
        if is_multirun and isinstance(error, RefusedPair):
            record_refusal(error, run_dir)
        else:
            record_failure(error, run_dir)
        if is_multirun:
            return None
        raise SystemExit(1) from None


def execute(cfg: DictConfig, run_dir: Path, is_multirun: bool = False) -> float | tuple[float, ...]:
    """Check the settings, save them with the environment, run, and return the objective."""
    settings = validate(cfg)
    if HydraConfig.get().sweeper.get("params") and not is_multirun:
        log.warning("these settings describe several runs, and only one of them runs now: add -m for all")
    OmegaConf.resolve(cfg)
    if cfg.print_config and not is_multirun:
        print_config(cfg, Console())
    if cfg.trainer.num_threads is not None:  # here already, so that the environment that is saved tells the truth
        import torch

        torch.set_num_threads(cfg.trainer.num_threads)

    from stc_lab.experiment import run_experiment

    quiet_transformers()
    with provenance(cfg, run_dir):
        summary = run_experiment(settings, run_dir)
    return objective(summary, cfg.objective)


@contextmanager
def provenance(cfg: DictConfig, run_dir: Path) -> Iterator[None]:
    """Save settings and environment with the run: at once in a new folder, when it has gone well in a used one.

    A run that refuses to go on in a folder with other settings thus leaves what it finds there as it is.
    """
    from stc_lab.predict.trainer import exact_products

    # In a folder that has settings already, they may be another run's: not before the run has accepted them.
    is_new = not (run_dir / CONFIG_FILE).exists()
    with exact_products(cfg.trainer.precision):  # as the streams will have it
        present = environment()
    if is_new:
        _save(cfg, present, run_dir)
    yield
    if not is_new:
        _save(cfg, present, run_dir)


def objective(summary: Mapping[str, Any], keys: str | ListConfig) -> float | tuple[float, ...]:
    """The number (or numbers) of a summary that a sweeper optimises, by dotted key."""
    if isinstance(keys, str):
        return _look_up(summary, keys)
    return tuple(_look_up(summary, key) for key in keys)


def _save(cfg: DictConfig, present: dict[str, Any], run_dir: Path) -> None:
    save_config(cfg, run_dir / CONFIG_FILE)
    (run_dir / ENVIRONMENT_FILE).write_text(json.dumps(present, indent=2) + "\n", encoding="utf-8")


def _look_up(summary: Mapping[str, Any], dotted_key: str) -> float:
    value: Any = summary
    for part in dotted_key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            known = ", ".join(value) if isinstance(value, Mapping) else "nothing"
            raise ValueError(f"objective={dotted_key}: the summary has no {part!r} there, but {known}")
        value = value[part]
    if value is None:
        return float("nan")
    if not isinstance(value, (int, float)):
        raise ValueError(f"objective={dotted_key}: is not a number but {value!r}")
    return float(value)

"""The result of a run in a Lightning logger (``logger=csv``, ``logger=wandb``)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import DictConfig, OmegaConf

from stc_lab.config import build


class LogResult(Protocol):
    """Logs a summary; with ``run_dir`` also the records and pictures of that folder, where the logger takes them."""

    def __call__(self, summary: Mapping[str, Any], run_dir: Path | None = None) -> None: ...


@contextmanager
def result_logger(cfg: DictConfig) -> Iterator[LogResult]:
    """Gives a function that logs a result; afterwards the log is closed as a success, or as a failure if one escapes.

    The settings are logged at once, so that a run that fails can be found by them.
    """
    logger: Logger | None = build(cfg.logger)
    if logger is None:
        yield lambda summary, run_dir=None: None
        return
    warnings.filterwarnings("ignore", message=".*Experiment logs directory.*")  # the run folder, and meant to be
    exit_code = 1
    try:
        logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
        yield lambda summary, run_dir=None: _log(logger, cfg, summary, run_dir)
        exit_code = 0
    finally:
        logger.finalize("failed" if exit_code else "success")
        if isinstance(logger, WandbLogger):
            logger.experiment.finish(exit_code=exit_code)


def scalars(summary: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """All numbers of a nested summary by path: ``latency_ms/vision/median``; pairs become ``/low`` and ``/high``."""
    flat: dict[str, float] = {}
    for key, value in summary.items():
        if isinstance(value, list) and len(value) == 2:
            value = dict(zip(("low", "high"), value, strict=True))
        if isinstance(value, Mapping):
            flat.update(scalars(value, f"{prefix}{key}/"))
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            flat[prefix + key] = value
    return flat


def _log(logger: Logger, cfg: DictConfig, summary: Mapping[str, Any], run_dir: Path | None) -> None:
    logger.log_metrics(scalars(summary), step=0)
    if isinstance(logger, WandbLogger):
        from stc_lab.results.wandb_run import fill_run

        fill_run(logger.experiment, cfg, summary, run_dir)

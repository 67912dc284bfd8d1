"""The Lightning trainer of a run."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, SimpleProfiler
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig

from stc_lab.predict.callbacks import StreamCallback
from stc_lab.predict.quiet import silence_lightning

LONGEST_WAIT = timedelta(days=30)


def check_devices(settings: DictConfig, is_multirun: bool) -> None:
    """Raise ``ValueError`` when a point of a multirun asks for several devices.

    Processes of one point would stand still until the slowest is done, and launchers share devices out among
    points: one point per device is both simpler and faster.
    """
    if is_multirun and settings.devices > 1:
        raise ValueError(
            f"trainer.devices={settings.devices} in a multirun: a point of a multirun runs on one device; set "
            f"trainer.devices=1 (and run several points at a time with hydra/launcher=joblib), or run this point alone"
        )


class SpawnedProcesses(DDPStrategy):
    """One process per device, each with its share of the streams; they meet only at the start and at the end.

    Lightning's ``ddp`` would start the command line again in every process, and with it Hydra; a spawned process
    begins at the predict loop. One that is done early waits for the others, however long they take.
    """

    def __init__(self) -> None:
        super().__init__(start_method="spawn", timeout=LONGEST_WAIT)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A spawned process receives the trainer here, before anything of Lightning has run in it."""
        silence_lightning()
        super().__setstate__(state)


def make_trainer(
    settings: DictConfig, run_dir: Path, callbacks: list[StreamCallback], device_index: int | None = None
) -> Trainer:
    """A trainer that only predicts: no checkpoints, no logger, no bars of its own; on a certain device if asked to.

    The backbone is built in ``settings.precision`` (see :mod:`stc_lab.predict.precision`); the trainer casts nothing.
    Processes are always our own: under Slurm a run is one task, which Lightning is kept from spreading or requeueing.
    """
    return Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices if device_index is None else [device_index],
        strategy=SpawnedProcesses() if settings.devices > 1 else "auto",
        plugins=[LightningEnvironment()],
        profiler=_profiler(settings.profiler, run_dir),
        callbacks=list(callbacks),
        default_root_dir=run_dir,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _profiler(name: str | None, run_dir: Path) -> Profiler | None:
    """Lightning's profiler of that name, writing ``profile`` files into the run folder (its log is silenced)."""
    kind = {None: None, "simple": SimpleProfiler, "advanced": AdvancedProfiler}[name]
    return kind and kind(dirpath=run_dir, filename="profile")

"""The Lightning trainer of a run."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer
from omegaconf import DictConfig

from stc_lab.predict.callbacks import StreamCallback


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


def make_trainer(settings: DictConfig, run_dir: Path, callbacks: list[StreamCallback]) -> Trainer:
    """A trainer that only predicts: no checkpoints, no logger, no bars of its own.

    Several devices get one process each by spawning. Lightning's ``ddp`` would start the command line again
    in every process, and with it Hydra; a spawned process begins at the predict loop.
    """
    return Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        strategy="ddp_spawn" if settings.devices > 1 else "auto",
        precision=settings.precision,
        profiler=settings.profiler,
        callbacks=list(callbacks),
        default_root_dir=run_dir,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )

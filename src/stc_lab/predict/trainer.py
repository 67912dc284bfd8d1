"""The Lightning trainer of a run: its processes, the type of the weights, its silence, and how SIGTERM ends it."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.profilers import AdvancedProfiler, SimpleProfiler
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig

LONGEST_WAIT = timedelta(days=30)
DTYPES = {"32-true": torch.float32, "bf16-true": torch.bfloat16, "16-true": torch.float16}
LOGGERS = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
WARNINGS = (
    ".*does not have many workers.*",
    ".*predict returned None.*",
    ".*isinstance.treespec, LeafSpec.*",
    ".*`srun` command is available.*",
)
EXIT_STATUS = 128 + signal.SIGTERM


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
    settings: DictConfig, run_dir: Path, callbacks: list[Callback], device_index: int | None = None
) -> Trainer:
    """A trainer that only predicts: no checkpoints, no logger, no bars of its own; on a certain device if asked to.

    The backbone is built in ``settings.precision`` (:func:`default_dtype`); the trainer casts nothing.
    Processes are always our own: under Slurm a run is one task, which Lightning is kept from spreading or requeueing.
    """
    # Lightning's profile goes into a file of the run folder, since its log is silenced.
    profiler = {None: None, "simple": SimpleProfiler, "advanced": AdvancedProfiler}[settings.profiler]
    return Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices if device_index is None else [device_index],
        strategy=SpawnedProcesses() if settings.devices > 1 else "auto",
        plugins=[LightningEnvironment()],
        profiler=profiler and profiler(dirpath=run_dir, filename="profile"),
        callbacks=list(callbacks),
        default_root_dir=run_dir,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """``dtype`` as torch's default type inside the block, so that the weights made in it have that type.

    Lightning's own half precision also makes it the default type of every tensor made during a step, positions and
    scores of a method included. Here only the weights get it; what is computed in 32 bits stays so.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def exact_products(precision: str) -> Iterator[None]:
    """Under ``32-true`` no product inside the block takes TF32, which torch allows convolutions by default.

    TF32 has 10 bits of mantissa: the patch embedding of a GPU would differ from a CPU's by 1e-3.
    """
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    if precision == "32-true":
        for backend in backends:
            backend.allow_tf32 = False
    try:
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def silence_lightning() -> None:
    """Only errors of Lightning from now on: for processes that end with the predict loop."""
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Only errors of Lightning inside the block: no tips, device lists, launch banners, advice on loading data."""
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    with warnings.catch_warnings():
        silence_lightning()
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


@contextmanager
def ends_on_sigterm() -> Iterator[None]:
    """``SystemExit`` on SIGTERM inside the block, so that loggers are finished and folders released.

    It ends a run at once, as Ctrl-C does: what is recorded stays, and the same command goes on from there.

    Lightning by itself only takes note of the signal, which its predict loop never looks at; it calls a handler
    that is there before it. One that somebody else has set (submitit) is left in place.
    """
    # Lightning sets handlers of its own while it runs, and puts back what it found.
    is_main = threading.current_thread() is threading.main_thread()  # no other may set a handler
    is_ours = is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if is_ours:
        signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def die_on_sigterm() -> None:
    """For one of several processes: nothing of it has to be finished, and the others may be gone already.

    Lightning's handler would tell the others of the signal, and fail or wait in the middle of a stream where one of
    them has died.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit(*_: Any) -> None:
    raise SystemExit(EXIT_STATUS)

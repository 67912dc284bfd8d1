"""Points of a multirun that run at the same time: one device each, and never the same point twice."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig

log = logging.getLogger(__name__)

LOCKS_DIR = ".locks"
SECONDS_BETWEEN_TRIES = 1.0


@contextmanager
def alone_with(fingerprint: str, sweep_dir: Path | None) -> Iterator[None]:
    """Hold the right to run the point of that fingerprint; a second process waits, and then finds the result.

    Locks end with their process, however it ends. Without ``sweep_dir`` there is nothing to share.
    """
    if sweep_dir is None:
        yield
        return
    with _lock(sweep_dir, f"{fingerprint}.lock"):
        yield


@contextmanager
def own_device(accelerator: str, sweep_dir: Path | None) -> Iterator[int | None]:
    """Index of a GPU that no other running point of the sweep has; ``None`` where there is nothing to choose.

    Job ``n`` gets GPU ``n`` modulo their number when that is free, and the next free one otherwise; with more workers
    than GPUs it waits for one, since times on a shared GPU would mean nothing.
    """
    if accelerator != "cuda" or sweep_dir is None:
        yield None
        return
    names = [_device_name(index) for index in range(torch.cuda.device_count())]
    index, lock = claim(sweep_dir, names, first=_job_num() % len(names))
    try:
        yield index
    finally:
        lock.release()


def claim(sweep_dir: Path, names: list[str], first: int) -> tuple[int, FileLock]:
    """Index of the first free name from ``first`` on, and the lock that keeps it; waits until there is one."""
    order = [(first + offset) % len(names) for offset in range(len(names))]
    is_first_try = True
    while True:
        for index in order:
            lock = _lock(sweep_dir, f"{names[index]}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            return index, lock
        if is_first_try:
            log.warning(f"all {len(names)} GPUs are in use by this sweep: waiting for one (fewer workers would do)")
        is_first_try = False
        time.sleep(SECONDS_BETWEEN_TRIES)


def _lock(sweep_dir: Path, name: str) -> FileLock:
    folder = sweep_dir / LOCKS_DIR
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / name)


def _device_name(index: int) -> str:
    """The same for one physical device in all processes, whatever they see of the others."""
    return f"{platform.node()}-{torch.cuda.get_device_properties(index).uuid}"


def _job_num() -> int:
    return HydraConfig.get().job.get("num") or 0 if HydraConfig.initialized() else 0

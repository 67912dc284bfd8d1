"""Loggers of ``logger=csv`` and ``logger=wandb``: Lightning's own, set up to need no one at the keyboard."""

from __future__ import annotations

import logging
import netrc
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlparse

if TYPE_CHECKING:
    import wandb
    from lightning.pytorch.loggers import CSVLogger, WandbLogger

log = logging.getLogger(__name__)

WANDB_SERVER = "https://api.wandb.ai"
LONGEST_START_S = 30.0
LONGEST_FINISH_S = 120.0


def csv_logger(save_dir: str | None = None) -> CSVLogger:
    """Logger that writes ``metrics.csv`` right into ``save_dir`` (``None``: the working directory)."""
    from lightning.pytorch.loggers import CSVLogger

    return CSVLogger(save_dir=save_dir or ".", name="", version="")


def wandb_logger(
    save_dir: str | None = None,
    project: str = "stc_lab",
    entity: str | None = None,
    group: str | None = None,
    tags: list | None = None,
    mode: Literal["auto", "online", "offline", "disabled"] = "auto",
) -> WandbLogger:
    """W&B logger that never prompts: ``auto`` is online with an API key at hand and offline without one.

    ``save_dir`` (``None``: the working directory) takes the local files and gives the run its name. The variable
    ``WANDB_MODE`` wins over ``auto``. A server that does not answer is not waited for: ``auto`` goes on offline, and at
    the end what is not sent after ``LONGEST_FINISH_S`` stays in the folder for ``wandb sync``. Raises ``ValueError``
    for ``online`` without a key.
    """
    from lightning.pytorch.loggers import WandbLogger

    folder = Path(save_dir or ".").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    about = {"name": folder.name, "dir": str(folder), "group": group, "tags": tags}
    about |= {"project": project, "entity": entity}
    run = _start_run(wandb_mode(mode), may_go_offline=mode == "auto", about=about)
    return WandbLogger(experiment=run)


def _start_run(mode: str, may_go_offline: bool, about: dict[str, Any]) -> wandb.Run:
    import wandb

    settings = wandb.Settings(
        init_timeout=LONGEST_START_S, finish_timeout=LONGEST_FINISH_S, finish_timeout_raises=False
    )  # fmt: skip
    try:
        return wandb.init(**about, mode=mode, settings=settings)
    except wandb.errors.CommError as error:
        if mode != "online" or not may_go_offline:
            raise
        log.warning(f"W&B does not answer, so this run is logged offline ({str(error).splitlines()[0]})")
        return wandb.init(**about, mode="offline", settings=settings)


def wandb_mode(mode: str) -> str:
    """What ``mode`` comes to in this environment: ``online``, ``offline`` or ``disabled``."""
    if mode == "auto":
        return os.environ.get("WANDB_MODE") or ("online" if has_wandb_key() else "offline")
    if mode == "online" and not has_wandb_key():
        raise ValueError("logger.mode=online: no W&B API key found; run `wandb login`, or use logger.mode=offline")
    return mode


def has_wandb_key() -> bool:
    """Whether W&B would find an API key without asking: in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", WANDB_SERVER)).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False

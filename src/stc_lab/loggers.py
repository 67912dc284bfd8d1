"""Loggers of ``logger=csv`` and ``logger=wandb``: Lightning's own, set up to need no one at the keyboard."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlparse

if TYPE_CHECKING:
    from lightning.pytorch.loggers import CSVLogger, WandbLogger

WANDB_SERVER = "https://api.wandb.ai"


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
    ``WANDB_MODE`` wins over ``auto``. Raises ``ValueError`` for ``online`` without a key.
    """
    from lightning.pytorch.loggers import WandbLogger

    folder = Path(save_dir or ".").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return WandbLogger(
        name=folder.name,
        save_dir=str(folder),
        project=project,
        entity=entity,
        group=group,
        tags=tags,
        mode=wandb_mode(mode),
    )


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

"""Interpolations used in ``conf/``: ``${stc.selection:...}`` and others."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

LONGEST_FOLDER_NAME = 120


def selection(threshold: float | None) -> str:
    """How a cacher chooses the tokens it recomputes: a given threshold replaces the fixed ratio."""
    return "ratio" if threshold is None else "threshold"


def folder_name(overrides: str) -> str:
    """Folder of one point of a multirun, from its overrides: stable from run to run, legal everywhere."""
    name = re.sub(r"[^-\w.=,+]", "_", overrides) or "defaults"
    if len(name) <= LONGEST_FOLDER_NAME and name == overrides:
        return name
    digest = hashlib.sha256(overrides.encode()).hexdigest()[:8]
    return f"{name[: LONGEST_FOLDER_NAME - 9]}-{digest}" if overrides else name


def user_path(path: str) -> str:
    """``path`` with ``~`` replaced by the home folder."""
    return str(Path(path).expanduser())


def run_dir() -> str | None:
    """Folder of the present run, ``None`` when a configuration is only looked at."""
    if not HydraConfig.initialized():
        return None
    return OmegaConf.select(HydraConfig.get(), "runtime.output_dir", throw_on_missing=False)


def register() -> None:
    """Make the interpolations known to OmegaConf (again, if need be)."""
    resolvers: dict[str, Any] = {
        "stc.selection": selection,
        "stc.folder_name": folder_name,
        "stc.user_path": user_path,
        "stc.run_dir": run_dir,
        "stc.help": _help,
    }
    for name, function in resolvers.items():
        OmegaConf.register_new_resolver(name, function, replace=True)


def _help(*, _root_: Any) -> str:
    from stc_lab.config.help import help_text

    return help_text(_root_)

"""Where ``conf/`` lies, and the interpolations used in it: ``${stc.folder_name:...}`` and others."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

PACKAGE = Path(__file__).resolve().parents[1]
LONGEST_FOLDER_NAME = 120
LEADING_GROUPS = ("backbone", "memory", "cacher", "pruner")


def checkout() -> Path | None:
    """Root of the source tree this package runs from, ``None`` when it runs from a wheel."""
    root = PACKAGE.parents[1]
    is_checkout = PACKAGE.parent.name == "src" and (root / "pyproject.toml").is_file()
    return root if is_checkout else None


def conf_dir() -> Path:
    """Absolute path of the configuration folder: in a checkout beside ``src/``, in a wheel inside the package."""
    root = checkout()
    folder = root / "conf" if root else PACKAGE / "conf"
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"no config.yaml in {folder}: the installation of stc_lab is incomplete")
    return folder


def folder_name(overrides: Sequence[str]) -> str:
    """Folder of one point of a multirun, from its overrides: the methods first, legal, stable from run to run.

    Where the overrides do not fit (a path, a long list), a digest of them keeps the name unique.
    """
    ordered = sorted(overrides, key=_rank)
    written, exact = ",".join(map(_short, ordered)), ",".join(ordered)
    if written == exact and len(exact) <= LONGEST_FOLDER_NAME:
        return exact or "defaults"
    # What was shortened or changed is no longer unique by itself.
    digest = hashlib.sha256(exact.encode()).hexdigest()[:8]
    return f"{written[: LONGEST_FOLDER_NAME - 9]}-{digest}"


def _rank(override: str) -> tuple[int, str]:
    group = re.split("[.=]", override.lstrip("+~"), maxsplit=1)[0]
    return (LEADING_GROUPS.index(group) if group in LEADING_GROUPS else len(LEADING_GROUPS), override.replace("=", " "))


def _short(override: str) -> str:
    """The override without the folders of a path and without characters that a file system may refuse."""
    key, _, value = override.partition("=")
    return re.sub(r"[^-\w.=+~]", "_", f"{key}={value.rstrip('/').rsplit('/', 1)[-1]}")


def user_path(path: str) -> str:
    """``path`` with ``~`` replaced by the home folder."""
    return str(Path(path).expanduser())


def run_dir() -> str | None:
    """Folder of the present run, ``None`` when a configuration is only looked at."""
    if not HydraConfig.initialized():
        return None
    return OmegaConf.select(HydraConfig.get(), "runtime.output_dir", throw_on_missing=False)


def sweep_name() -> str | None:
    """Folder of the present multirun (``DATE/TIME``), ``None`` outside of one."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return "/".join(Path(HydraConfig.get().sweep.dir).absolute().parts[-2:])


def register(help_text: Callable[[DictConfig], str]) -> None:
    """Make the interpolations known to OmegaConf (again, if need be); ``help_text`` makes that of a configuration."""

    def help_of(*, _root_: DictConfig) -> str:
        return help_text(_root_)

    resolvers: dict[str, Any] = {
        "stc.folder_name": folder_name,
        "stc.user_path": user_path,
        "stc.run_dir": run_dir,
        "stc.sweep_name": sweep_name,
        "stc.help": help_of,
    }
    for name, function in resolvers.items():
        OmegaConf.register_new_resolver(name, function, replace=True)

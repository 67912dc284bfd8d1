"""How each point came about: the command that makes it again, and the machine and versions it was made with."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from stc_lab.results.layout import BASELINE_DIR
from stc_lab.results.runs import Run

ENVIRONMENT_FILE = "environment.json"
OVERRIDES_FILE = ".hydra/overrides.yaml"
UNCOMPRESSED = ("cacher=none", "pruner=none")
LEFT_AWAY = ("report.", "baseline=", "objective=", "hydra.")
"""Overrides that say what is made of a run, not what it is."""


def command_of(run: Run) -> str | None:
    """The command that runs this point alone; ``None`` for a folder that does not tell (imported predictions)."""
    path = _origin(run) / OVERRIDES_FILE
    if not path.is_file():
        return environment_of(run).get("command")
    overrides = [text for text in OmegaConf.load(path) if not text.lstrip("+~").startswith(LEFT_AWAY)]
    if _is_baseline(run):
        dropped = ("cacher=", "cacher.", "pruner=", "pruner.")
        overrides = [text for text in overrides if not text.lstrip("+~").startswith(dropped)] + list(UNCOMPRESSED)
    return shlex.join(["python", "-m", "stc_lab", *overrides])


def environment_of(run: Run) -> dict[str, Any]:
    """Content of ``environment.json``; empty where there is none."""
    path = _origin(run) / ENVIRONMENT_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def environment_rows(run: Run) -> dict[str, str]:
    """The environment in a few readable lines."""
    environment, summary = environment_of(run), run.summary
    if not environment:
        return {}
    git = environment.get("git") or {}
    torch = environment.get("torch") or {}
    return {
        "device": ", ".join(str(summary[key]) for key in ("device_name", "precision") if summary.get(key)),
        "threads": f"{torch.get('num_threads')} of torch, {environment['cpu']['num_usable_cores']} usable cores",
        "attention": torch.get("attention", {}).get("implementation", "-"),
        "stc_lab": environment["stc_lab"] + _revision(git),
        "python": f"{environment['python']} on {environment['platform']}",
        "packages": ", ".join(f"{name} {number}" for name, number in environment["packages"].items() if number),
    }


def common_rows(tables: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Lines that are equal in all tables."""
    first = tables[0] if tables else {}
    return {key: value for key, value in first.items() if all(table.get(key) == value for table in tables)}


def _revision(git: Mapping[str, Any]) -> str:
    if not git:
        return ""
    return f", commit {git['commit'][:12]}" + (" with local changes" if git.get("modified") else "")


def _is_baseline(run: Run) -> bool:
    return run.folder.name == BASELINE_DIR and not (run.folder / OVERRIDES_FILE).is_file()


def _origin(run: Run) -> Path:
    """The folder that holds command and environment: for the uncompressed run beside another, that of the other."""
    return run.folder.parent if _is_baseline(run) else run.folder

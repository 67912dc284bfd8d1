"""The settings as people see them: a tree in the terminal, ``config.yaml`` in the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.text import Text
from rich.tree import Tree


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The settings as a plain dictionary, interpolations resolved. Raises where a required one is missing."""
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


def print_config(cfg: DictConfig, console: Console) -> None:
    """Print the resolved settings as a tree."""
    tree = Tree("settings", guide_style="dim")
    _grow(tree, resolved(cfg))
    console.print(tree)


def save_config(cfg: DictConfig, path: Path) -> None:
    """Write the resolved settings as YAML; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(resolved(cfg))), encoding="utf-8")


def _grow(tree: Tree, settings: dict[str, Any]) -> None:
    """Plain values first, then one branch per group that has any; a group's method stands beside its name."""
    for key, value in settings.items():
        if not isinstance(value, dict) and not key.startswith("_") and key != "name":
            tree.add(Text.assemble(f"{key}: ", (shown(value), "cyan")))
    for key, value in settings.items():
        if isinstance(value, dict):
            label = Text(key, style="bold")
            if value.get("name") is not None:
                label = Text.assemble(label, ": ", (str(value["name"]), "bold cyan"))
            _grow(tree.add(label), value)


def shown(value: Any) -> str:
    """A value as one writes it on the command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)

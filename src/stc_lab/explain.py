"""A helping line behind Hydra's own message about a command line that does not compose."""

from __future__ import annotations

import difflib
import sys

from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError


def explain(error: BaseException | None) -> None:
    """Name the valid settings when the error behind an exit is a setting that does not exist."""
    while error is not None:
        if isinstance(error, (ConfigKeyError, ConfigAttributeError)) and isinstance(error.parent_node, DictConfig):
            where, _, key = str(error.full_key).rpartition(".")
            print(valid_settings(where, key, error.parent_node), file=sys.stderr)
            return
        error = error.__cause__


def valid_settings(where: str, key: str, parent: DictConfig) -> str:
    """``Did you mean 'budget'? Valid settings of pruner: alpha, budget, ...``."""
    choices = sorted(str(name) for name in parent if not str(name).startswith("_") and name != "hydra")
    near = difflib.get_close_matches(key, choices, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}Valid settings{f' of {where}' if where else ''}: {', '.join(choices)}."

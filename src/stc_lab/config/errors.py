"""What a user reads when something goes wrong: one clear line, the traceback in ``error.json``, an exit status.

A failed point of a multirun must not stop the others, so its error becomes a file; when all points are done
:class:`ReportFailures` names them and ends the process with status 1. Choices that make no sense together are refused:
in a multirun, where a grid of choices has such points by nature, that is no failure.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from stc_lab.config.resolvers import conf_dir
from stc_lab.results.records import ERROR_FILE, REFUSED_FILE

LIBRARIES = ("lightning", "pytorch_lightning", "transformers", "huggingface_hub", "httpx", "wandb", "torch", "fsspec")


class RefusedPair(ValueError):
    """Choices that are valid by themselves and make no sense together."""


def wants_traceback() -> bool:
    """Whether the user asked for full tracebacks (``HYDRA_FULL_ERROR=1``)."""
    return os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")


def one_line(error: BaseException) -> str:
    """The error as one paragraph; a ``ValueError`` is a message to the user and needs no type name."""
    text = str(error).strip() or type(error).__name__
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def record_failure(error: Exception, run_dir: Path) -> None:
    """Print the error, and save it with its traceback in the run folder."""
    record = {"type": type(error).__name__, "reason": one_line(error), "traceback": traceback.format_exception(error)}
    path = run_dir / ERROR_FILE
    run_dir.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2), encoding="utf-8")
    if wants_traceback():
        traceback.print_exception(error)
    else:
        hint = "" if isinstance(error, ValueError) else f" (traceback: {path})"
        print(f"error: {one_line(error)}{hint}", file=sys.stderr, flush=True)


def record_refusal(error: RefusedPair, run_dir: Path) -> None:
    """Print why a point of a multirun does not run, and save it in the run folder."""
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / REFUSED_FILE).write_text(json.dumps({"reason": str(error)}, indent=2), encoding="utf-8")
    print(f"refused: {error}", file=sys.stderr, flush=True)


def clear_failure(run_dir: Path) -> None:
    """Forget the error or the refusal of an earlier attempt in the same folder."""
    for name in (ERROR_FILE, REFUSED_FILE):
        (run_dir / name).unlink(missing_ok=True)


class ReportFailures(Callback):
    """Hydra callback: after a multirun, name the refused and the failed runs; exit with status 1 for failed ones."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Called once, after the callbacks that gather the results."""
        sweep_dir = Path(config.hydra.sweep.dir)
        # Points may have run in other processes: only their files tell.
        refused, failed = (
            sorted(file.parent.name for file in sweep_dir.glob(f"*/{name}")) for name in (REFUSED_FILE, ERROR_FILE)
        )
        if refused:
            print(f"{len(refused)} of the runs in {sweep_dir} were refused: {'; '.join(refused)}", file=sys.stderr)
        if failed:
            print(f"error: {len(failed)} of the runs in {sweep_dir} failed: {'; '.join(failed)}", file=sys.stderr)
            sys.exit(1)


def suggest(error: BaseException | None) -> None:
    """Name the valid settings when the error behind an exit is a setting that does not exist."""
    while error is not None:
        if isinstance(error, (ConfigKeyError, ConfigAttributeError)) and isinstance(error.parent_node, DictConfig):
            print(_suggestion(str(error.full_key), error.parent_node), file=sys.stderr)
            return
        error = error.__cause__


def _suggestion(full_key: str, parent: DictConfig) -> str:
    where, _, key = full_key.rpartition(".")
    # What the user typed is not in Hydra's error, only the key.
    if where == "backbone":
        typed = [word.partition("=")[2] for word in sys.argv if word.partition("=")[0].lstrip("+~") == full_key]
        memory = OmegaConf.select(parent._get_root(), "memory", default={})
        advice = moved_setting(key, typed[-1] if typed else "VALUE", parent.get("name"), memory)
        if advice:
            return advice
    return valid_settings(where, key, parent)


def moved_setting(key: str, value: Any, backbone: str | None, memory: Mapping[str, Any]) -> str | None:
    """Advice for a setting of the backbone that is one of the memory now; ``None`` where no memory has it.

    ``memory``: settings of the chosen one; a preset's own memory is the one of the same name.
    """
    # Keys of a memory's YAML file are the fields of its class (a test keeps it so), and cost no import.
    written, folder = f"backbone.{key}={value}", conf_dir() / "memory"
    if key in memory:
        return f"{written}: this setting moved; write memory.{key}={value}"
    own = folder / f"{backbone}.yaml"
    if own.is_file() and key in OmegaConf.load(own):
        return f"{written}: this setting moved; write memory={backbone} memory.{key}={value}"
    if (folder / f"{value}.yaml").is_file():
        return f"{written}: this setting moved; write memory={value}"
    return None


def valid_settings(where: str, key: str, parent: DictConfig) -> str:
    """``Did you mean 'budget'? Valid settings of pruner: alpha, budget, ...``."""
    choices = sorted(str(name) for name in parent if not str(name).startswith("_") and name != "hydra")
    near = difflib.get_close_matches(key, choices, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}Valid settings{f' of {where}' if where else ''}: {', '.join(choices)}."


class OwnMessages(logging.Filter):
    """Lets pass our records and the warnings and errors of others (tips and banners stay in the log file)."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record goes to the terminal."""
        is_library = record.name.split(".", 1)[0] in LIBRARIES
        return not is_library or record.levelno >= logging.WARNING


def quiet_transformers() -> None:
    """Only errors and no loading bars of transformers, which sets up its own terminal output when imported."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()

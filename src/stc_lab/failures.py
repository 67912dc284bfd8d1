"""What happens when a run fails: one clear line, the traceback in ``error.json``, and a non-zero exit status.

A failed point of a multirun must not stop the others, so its error becomes a file; when all points are done
:class:`ReportFailures` names them and ends the process with status 1.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

ERROR_FILE = "error.json"


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


def clear_failure(run_dir: Path) -> None:
    """Forget the error of an earlier attempt in the same folder."""
    (run_dir / ERROR_FILE).unlink(missing_ok=True)


class ReportFailures(Callback):
    """Hydra callback: exit with status 1 after a multirun with failed runs."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Called once, after the callbacks that gather the results."""
        sweep_dir = Path(config.hydra.sweep.dir)
        failed = sorted(file.parent.name for file in sweep_dir.glob(f"*/{ERROR_FILE}"))
        if failed:
            print(f"error: {len(failed)} of the runs in {sweep_dir} failed: {'; '.join(failed)}", file=sys.stderr)
            sys.exit(1)

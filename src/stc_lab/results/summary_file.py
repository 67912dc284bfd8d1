"""The file ``summary.json`` itself, without what it takes to make its content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stc_lab.results.records import write_text_atomically

SUMMARY_FILE = "summary.json"


def write_summary(run_dir: Path, summary: dict[str, Any]) -> None:
    """Write ``summary.json``; its presence marks a run as finished."""
    write_text_atomically(run_dir / SUMMARY_FILE, json.dumps(summary, indent=2, allow_nan=False) + "\n")


def read_summary(run_dir: Path) -> dict[str, Any] | None:
    """The summary of a finished run, ``None`` for any other folder."""
    path = run_dir / SUMMARY_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

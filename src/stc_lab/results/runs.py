"""The runs in a folder: finished ones as objects, all others with the reason why they do not count."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from stc_lab.results.axes import GROUPS, axis_values
from stc_lab.results.records import (
    BASELINE_DIR,
    CONFIG_FILE,
    DUPLICATE_FILE,
    ERROR_FILE,
    IDENTITY_FILE,
    RECORDS_FILE,
    REFUSED_FILE,
    SUMMARY_FILE,
    Record,
    read_records,
    read_summary,
    short_names,
    write_summary,
)
from stc_lab.results.summary import summarize


@dataclass(frozen=True)
class Run:
    """A finished run. ``name``: its folder as a report shows it; ``settings``: flat, with dotted keys."""

    name: str
    folder: Path
    fingerprint: str
    settings: Mapping[str, Any]
    summary: Mapping[str, Any]

    @cached_property
    def records(self) -> list[Record]:
        """One per question; read once."""
        return read_records(self.folder / RECORDS_FILE)

    @cached_property
    def names(self) -> dict[str, str]:
        """Name of backbone, memory, cacher, pruner and dataset; runs without a memory have that of their backbone."""
        # Runs of schema 1, and imported ones, know no memory: it was welded to the backbone.
        names = {group: self.settings.get(f"{group}.name") for group in GROUPS}
        names["memory"] = names["memory"] or names["backbone"]
        return {group: "?" if name is None else str(name) for group, name in names.items()}

    @property
    def memory_settings(self) -> str:
        """Settings of the memory as ``budget=512, window_s=8``; empty where it has none."""
        own = {key.removeprefix("memory."): value for key, value in self.settings.items() if key.startswith("memory.")}
        return ", ".join(f"{key}={value}" for key, value in own.items() if key != "name" and value is not None)

    @property
    def is_uncompressed(self) -> bool:
        """Neither cacher nor pruner."""
        return self.names["cacher"] == "none" and self.names["pruner"] == "none"


@dataclass(frozen=True)
class Found:
    """What lies in the folders asked for. ``left_out``: the reason for every run that failed or is not finished.

    ``refused``: the reason for every point that is no legal combination, and was never to be run.
    """

    runs: list[Run]
    left_out: dict[str, str]
    refused: dict[str, str] = field(default_factory=dict)


def find_runs(folders: Sequence[Path]) -> Found:
    """Gather runs from sweep folders, and from folders of single runs; equal runs count once.

    Raises ``ValueError`` for a folder that does not exist.
    """
    runs: dict[str, Run] = {}
    found = Found([], {})
    prefixes = [""] if len(folders) == 1 else [f"{name}/" for name in short_names(folders)]
    for folder, prefix in zip(folders, prefixes, strict=True):
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder; give folders of multiruns or of single runs")
        for path in _candidates(folder):
            name = prefix + path.relative_to(folder).as_posix() if path != folder else prefix.rstrip("/") or folder.name
            _take(path, name, runs, found)
    found.runs.extend(runs.values())
    return found


def _candidates(folder: Path) -> Iterator[Path]:
    # A folder is a run, or holds runs; each of them may have its uncompressed run inside.
    is_run = any((folder / name).is_file() for name in (IDENTITY_FILE, SUMMARY_FILE))
    parents = [folder] if is_run else sorted(path for path in folder.iterdir() if path.is_dir())
    for parent in parents:
        yield parent
        if (parent / BASELINE_DIR).is_dir():
            yield parent / BASELINE_DIR


def _take(path: Path, name: str, runs: dict[str, Run], found: Found) -> None:
    reason = _reason_against(path)
    if (path / REFUSED_FILE).is_file():
        found.refused[name] = json.loads((path / REFUSED_FILE).read_text(encoding="utf-8"))["reason"]
    elif reason:
        found.left_out[name] = reason
    elif (path / SUMMARY_FILE).is_file():
        run = _read(path, name)
        runs.setdefault(run.fingerprint, run)


def _reason_against(path: Path) -> str | None:
    """Why a folder is no finished run; ``None`` also for folders that are no runs at all, or copies of another."""
    if (path / ERROR_FILE).is_file():
        return json.loads((path / ERROR_FILE).read_text(encoding="utf-8"))["reason"]
    if (path / SUMMARY_FILE).is_file() or (path / DUPLICATE_FILE).is_file():
        return None
    if (path / IDENTITY_FILE).is_file():
        return f"not finished: {len(read_records(path / RECORDS_FILE))} questions recorded, no summary"
    return "not finished: stopped before the first question" if (path / CONFIG_FILE).is_file() else None


def _read(path: Path, name: str) -> Run:
    # Imported predictions have no identity: then all that is known are the names in the summary.
    summary = read_summary(path)
    settings = {f"{group}.name": value for group, value in summary["run"].items()}
    fingerprint = summary.get("fingerprint") or str(path.resolve())
    if (path / IDENTITY_FILE).is_file():
        identity = json.loads((path / IDENTITY_FILE).read_text(encoding="utf-8"))
        settings, fingerprint = identity["settings"], identity["fingerprint"]
    return Run(name, path, fingerprint, settings, summary)


def rebuild_summaries(folders: Sequence[Path]) -> int:
    """Compute ``summary.json`` of every finished run below ``folders`` again; returns their number.

    Facts that are not in the records (settings, device, frame rate) stay as the run has written them. A run without
    records keeps its summary.
    """
    runs = [run for run in find_runs(folders).runs if run.records]
    for run in runs:
        write_summary(run.folder, rebuilt(run))
    return len(runs)


def rebuilt(run: Run) -> dict:
    """The summary of a run with all that follows from its records computed again."""
    asked = axis_values(run.summary)
    budgets = asked["requested_tokens"], asked["requested_tokens_read"]
    seed, benchmark = run.summary.get("seed", 0), run.names["dataset"]
    return {**run.summary, **summarize(run.records, budgets[0], seed, benchmark, budgets[1])}

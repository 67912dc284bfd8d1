"""The runs in a folder: finished ones as objects, all others with the reason why they do not count."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stc_lab.failures import ERROR_FILE
from stc_lab.results.layout import BASELINE_DIR, CONFIG_FILE, DUPLICATE_FILE, IDENTITY_FILE
from stc_lab.results.records import RECORDS_FILE, Record, read_records
from stc_lab.results.summary import SUMMARY_FILE, read_summary

GROUPS = ("backbone", "cacher", "pruner", "dataset")


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

    @property
    def names(self) -> dict[str, str]:
        """Name of backbone, cacher, pruner and dataset."""
        return {group: str(self.settings.get(f"{group}.name", "?")) for group in GROUPS}

    @property
    def is_uncompressed(self) -> bool:
        """Neither cacher nor pruner."""
        return self.names["cacher"] == "none" and self.names["pruner"] == "none"


@dataclass(frozen=True)
class Found:
    """What lies in the folders asked for. ``left_out``: the reason for every run that does not count."""

    runs: list[Run]
    left_out: dict[str, str]


def find_runs(folders: Sequence[Path]) -> Found:
    """Gather runs from sweep folders, and from folders of single runs; equal runs count once.

    Raises ``ValueError`` for a folder that does not exist.
    """
    runs: dict[str, Run] = {}
    left_out: dict[str, str] = {}
    for folder, prefix in zip(folders, _prefixes(folders), strict=True):
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder; give folders of multiruns or of single runs")
        for path in _candidates(folder):
            name = prefix + path.relative_to(folder).as_posix() if path != folder else prefix.rstrip("/") or folder.name
            _take(path, name, runs, left_out)
    return Found(list(runs.values()), left_out)


def _prefixes(folders: Sequence[Path]) -> list[str]:
    """``""`` for a single folder; else the shortest ends of the paths that tell them apart."""
    if len(folders) == 1:
        return [""]
    parts = [folder.resolve().parts for folder in folders]
    length = 1
    while len({names[-length:] for names in parts}) < len(set(parts)):
        length += 1
    return ["/".join(names[-length:]) + "/" for names in parts]


def _candidates(folder: Path) -> Iterator[Path]:
    is_run = any((folder / name).is_file() for name in (IDENTITY_FILE, SUMMARY_FILE))
    parents = [folder] if is_run else sorted(path for path in folder.iterdir() if path.is_dir())
    for parent in parents:
        yield parent
        if (parent / BASELINE_DIR).is_dir():
            yield parent / BASELINE_DIR


def _take(path: Path, name: str, runs: dict[str, Run], left_out: dict[str, str]) -> None:
    reason = _reason_against(path)
    if reason:
        left_out[name] = reason
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
    summary = read_summary(path)
    settings = {f"{group}.name": value for group, value in summary["run"].items()}
    fingerprint = summary.get("fingerprint") or str(path.resolve())
    if (path / IDENTITY_FILE).is_file():
        identity = json.loads((path / IDENTITY_FILE).read_text(encoding="utf-8"))
        settings, fingerprint = identity["settings"], identity["fingerprint"]
    return Run(name, path, fingerprint, settings, summary)

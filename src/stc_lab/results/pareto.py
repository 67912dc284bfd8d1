"""The points of one or several multiruns, and which of them no other point beats."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stc_lab.results.axes import ACCURACY, COSTS, Cost, cost_of
from stc_lab.results.hypervolume import hypervolumes
from stc_lab.results.labels import line_labels
from stc_lab.results.records import write_text_atomically
from stc_lab.results.runs import GROUPS, Found, Run, find_runs

TRIVIAL_PRUNERS = ("random", "uniform", "downsample", "recent")
TRIVIAL_BACKBONES = ("recent",)
TIMING_COLUMNS = (
    *("latency_ms", "latency_median_ms", "latency_p25_ms", "latency_p75_ms", "latency_p90_ms"),
    *("ttft_ms", "ttft_p25_ms", "ttft_p75_ms", "peak_mem_gib"),
)
"""Columns that differ from one execution to the next; with a time as cost, so may ``is_non_dominated``."""


@dataclass(frozen=True)
class Sweep:
    """One row per distinct finished run, and the reason for every other folder.

    Points are compared within their ``benchmark``: the same questions, on the same device.
    """

    points: pd.DataFrame
    left_out: dict[str, str]
    cost: Cost = COSTS["latency"]
    runs: dict[str, Run] = field(default_factory=dict)


def read_sweep(folders: Path | Sequence[Path], cost: str = "latency") -> Sweep:
    """Gather the finished runs of the folders and their baselines; equal runs count once.

    Raises ``ValueError`` for a folder that does not exist and for an unknown ``cost``.
    """
    return as_sweep(find_runs([folders] if isinstance(folders, Path) else folders), cost)


def as_sweep(found: Found, cost: str = "latency") -> Sweep:
    """The points of runs that were gathered, with their labels and the non-dominated set under ``cost``."""
    axis = cost_of(cost)
    benchmarks = benchmark_names(found.runs)
    labels = _labels(found.runs, benchmarks)
    rows = [
        {"label": labels[run.name], "benchmark": benchmarks[run.name], **_row(run)} for run in found.runs
    ]  # fmt: skip
    points = pd.DataFrame(rows)
    if rows:
        points["is_non_dominated"] = False
        for _, group in points.groupby("benchmark"):
            points.loc[group.index, "is_non_dominated"] = non_dominated(group["accuracy"], group[axis.column])
        points = points.sort_values(["benchmark", "label", "requested_tokens", "run"], ignore_index=True)
    return Sweep(points, found.left_out, axis, {run.name: run for run in found.runs})


def non_dominated(accuracy: Sequence[float], cost: Sequence[float]) -> np.ndarray:
    """Mask [N] of the points for which no other is at least as good in both and better in one.

    Points without accuracy or cost (NaN) are never in the set; equal points are in it together.
    """
    gain, cost = np.asarray(accuracy, dtype=float), np.asarray(cost, dtype=float)
    as_good = (gain[None] >= gain[:, None]) & (cost[None] <= cost[:, None])
    better = (gain[None] > gain[:, None]) | (cost[None] < cost[:, None])
    return ~(as_good & better).any(axis=1) & ~np.isnan(gain) & ~np.isnan(cost)


def benchmark_names(runs: Iterable[Run]) -> dict[str, str]:
    """What each run may be compared on, by run name: the dataset, and as much more as tells them apart.

    Runs are comparable when they were asked the same questions on the same device in the same precision.
    """
    keys = {run.name: (run.names["dataset"], _questions_of(run), _machine_of(run)) for run in runs}
    names = {name: dataset for name, (dataset, _, _) in keys.items()}
    for part, describe in ((1, lambda key: f" ({key[1]})"), (2, lambda key: f" on {key[2]}")):
        seen: dict[str, set[str]] = {}
        for key in keys.values():
            seen.setdefault(key[0], set()).add(key[part])
        names = {name: names[name] + (describe(key) if len(seen[key[0]]) > 1 else "") for name, key in keys.items()}
    return names


def write_pareto(sweep: Sweep, folder: Path) -> list[Path]:
    """Write ``pareto.csv`` and ``pareto.json``; returns their paths."""
    csv, file = folder / "pareto.csv", folder / "pareto.json"
    write_text_atomically(csv, sweep.points.to_csv(index=False))
    points = json.loads(sweep.points.to_json(orient="records"))
    content = {
        "axes": {"accuracy": ACCURACY, sweep.cost.column: f"{sweep.cost.explanation}; lower is better"},
        "cost": sweep.cost.name,
        "points": points,
        "non_dominated": [point["run"] for point in points if point["is_non_dominated"]],
        "hypervolume": hypervolumes(sweep.points, sweep.cost) if points else [],
        "left_out": sweep.left_out,
    }
    write_text_atomically(file, json.dumps(content, indent=2) + "\n")
    return [csv, file]


def _labels(runs: Sequence[Run], benchmarks: Mapping[str, str]) -> dict[str, str]:
    """Line labels, made within each benchmark: what differs between benchmarks does not tell methods apart."""
    labels: dict[str, str] = {}
    for benchmark in dict.fromkeys(benchmarks.values()):
        group = [run for run in runs if benchmarks[run.name] == benchmark]
        settings = [{**run.settings, **{f"{key}.name": name for key, name in run.names.items()}} for run in group]
        labels |= zip([run.name for run in group], line_labels(settings), strict=True)
    return labels


def _questions_of(run: Run) -> str:
    """Digest of the questions that were asked; without records, of the data as the run's settings know it."""
    keys = sorted(record.key for record in run.records) or run.settings.get("data_digest")
    digest = hashlib.sha256(repr(keys).encode()).hexdigest()[:6]
    return f"{run.summary['num_questions']} questions, {digest}"


def _machine_of(run: Run) -> str:
    return ", ".join(str(run.summary[key]) for key in ("device_name", "precision") if run.summary.get(key))


def _row(run: Run) -> dict[str, Any]:
    summary = run.summary
    low, high = summary["accuracy_ci95"] or (None, None)
    tokens, frame_ms, ttft_ms = (summary.get(key) or {} for key in ("tokens_per_frame", "frame_ms", "ttft_ms"))
    flops, kv_bytes = summary.get("flops_per_frame") or {}, summary.get("kv_bytes") or {}
    held = [size for size in kv_bytes.values() if size is not None]
    names = run.names
    return {
        **{group: names[group] for group in GROUPS},
        "is_uncompressed": run.is_uncompressed,
        "is_trivial": names["pruner"] in TRIVIAL_PRUNERS or names["backbone"] in TRIVIAL_BACKBONES,
        "requested_tokens": tokens.get("requested"),
        "achieved_tokens": tokens.get("achieved"),
        "update_ratio": summary.get("update_ratio"),
        "accuracy": summary["accuracy"],
        "accuracy_low": low,
        "accuracy_high": high,
        "coverage": summary["coverage"],
        "num_questions": summary["num_questions"],
        "flops_per_frame": sum(flops.values()) if flops else None,
        "kv_mib": sum(held) / 1024**2 if held else None,
        "latency_ms": frame_ms.get("mean"),
        **{f"latency_{key}_ms": frame_ms.get(key) for key in ("median", "p25", "p75", "p90")},
        "ttft_ms": ttft_ms.get("median"),
        **{f"ttft_{key}_ms": ttft_ms.get(key) for key in ("p25", "p75")},
        "peak_mem_gib": summary.get("peak_mem_gib"),
        "run": run.name,
        "fingerprint": run.fingerprint,
    }

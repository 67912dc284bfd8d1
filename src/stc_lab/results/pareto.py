"""The points of a multirun, and which of them no other point beats."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stc_lab.failures import ERROR_FILE
from stc_lab.results.layout import BASELINE_DIR, DUPLICATE_FILE, IDENTITY_FILE
from stc_lab.results.records import write_text_atomically
from stc_lab.results.summary import SUMMARY_FILE, read_summary

BUDGET_KEYS = ("pruner.num_tokens",)
NAME_KEYS = ("backbone.name", "cacher.name", "pruner.name", "dataset.name")

AXES = {
    "accuracy": "share of scored questions answered right, failed and unanswered counted as wrong; higher is better",
    "latency_ms": "mean time of one frame after warm-up, preprocess to prefill, without decoding; lower is better",
}


@dataclass(frozen=True)
class Sweep:
    """What lies in a sweep folder: one row per distinct finished run, and the reason for every other folder."""

    points: pd.DataFrame
    left_out: dict[str, str]


def read_sweep(sweep_dir: Path) -> Sweep:
    """Gather the finished runs below ``sweep_dir`` and their baselines; equal runs count once.

    Runs that failed, and runs that are not finished, are left out and named with their reason.
    """
    failed = _failures(sweep_dir)
    left_out, rows, settings = dict(failed), {}, {}
    for folder in sorted(path for path in sweep_dir.iterdir() if path.is_dir()):
        if folder.name not in failed and (folder / IDENTITY_FILE).is_file():
            if (folder / SUMMARY_FILE).is_file():
                _add_run(folder, sweep_dir, rows, settings)
            elif not (folder / DUPLICATE_FILE).is_file():
                left_out[folder.name] = "not finished: no summary"
        if (folder / BASELINE_DIR / SUMMARY_FILE).is_file():
            _add_run(folder / BASELINE_DIR, sweep_dir, rows, settings)
    labels = line_labels(list(settings.values()))
    table = pd.DataFrame([{"label": label, **row} for label, row in zip(labels, rows.values(), strict=True)])
    if len(table):
        table["is_non_dominated"] = non_dominated(table["accuracy"], table["latency_ms"])
        table = table.sort_values(["label", "latency_ms"], ignore_index=True)
    return Sweep(table, left_out)


def non_dominated(accuracy: Sequence[float], cost: Sequence[float]) -> np.ndarray:
    """Mask [N] of the points for which no other is at least as good in both and better in one.

    Points without accuracy or cost (NaN) are never in the set; equal points are in it together.
    """
    gain, cost = np.asarray(accuracy, dtype=float), np.asarray(cost, dtype=float)
    as_good = (gain[None] >= gain[:, None]) & (cost[None] <= cost[:, None])
    better = (gain[None] > gain[:, None]) | (cost[None] < cost[:, None])
    return ~(as_good & better).any(axis=1) & ~np.isnan(gain) & ~np.isnan(cost)


def line_labels(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the points of one line have in common: cacher and pruner, and every other setting that the runs differ in.

    The budget moves along a line and is no part of its label.
    """
    names = [f"{flat['cacher.name']} + {flat['pruner.name']}" for flat in settings]
    if len({flat["backbone.name"] for flat in settings}) > 1:
        names = [f"{flat['backbone.name']}: {name}" for flat, name in zip(settings, names, strict=True)]
    if len({flat["dataset.name"] for flat in settings}) > 1:
        names = [f"{name} on {flat['dataset.name']}" for flat, name in zip(settings, names, strict=True)]
    varying = _varying_keys(settings, names)
    return [_with_settings(name, flat, varying) for flat, name in zip(settings, names, strict=True)]


def write_pareto(sweep: Sweep, folder: Path) -> list[Path]:
    """Write ``pareto.csv`` and ``pareto.json``; returns their paths."""
    csv, file = folder / "pareto.csv", folder / "pareto.json"
    write_text_atomically(csv, sweep.points.to_csv(index=False))
    points = json.loads(sweep.points.to_json(orient="records"))
    front = [point["run"] for point in points if point["is_non_dominated"]]
    content = {"axes": AXES, "points": points, "non_dominated": front, "left_out": sweep.left_out}
    write_text_atomically(file, json.dumps(content, indent=2) + "\n")
    return [csv, file]


def _failures(sweep_dir: Path) -> dict[str, str]:
    files = sorted(sweep_dir.glob(f"*/{ERROR_FILE}"))
    return {file.parent.name: json.loads(file.read_text(encoding="utf-8"))["reason"] for file in files}


def _add_run(folder: Path, sweep_dir: Path, rows: dict[str, dict], settings: dict[str, dict]) -> None:
    identity = json.loads((folder / IDENTITY_FILE).read_text(encoding="utf-8"))
    key = identity["fingerprint"]
    if key not in rows:
        rows[key] = _row(folder.relative_to(sweep_dir).as_posix(), read_summary(folder))
        settings[key] = identity["settings"]


def _row(run: str, summary: dict[str, Any]) -> dict[str, Any]:
    low, high = summary["accuracy_ci95"] or (None, None)
    frame_ms = summary["frame_ms"] or {}
    return {
        **summary["run"],
        "is_uncompressed": summary["run"]["cacher"] == "none" and summary["run"]["pruner"] == "none",
        "requested_tokens": summary["tokens_per_frame"]["requested"],
        "achieved_tokens": summary["tokens_per_frame"]["achieved"],
        "update_ratio": summary["update_ratio"],
        "accuracy": summary["accuracy"],
        "accuracy_low": low,
        "accuracy_high": high,
        "coverage": summary["coverage"],
        "num_questions": summary["num_questions"],
        "latency_ms": frame_ms.get("mean"),
        "latency_median_ms": frame_ms.get("median"),
        "latency_p90_ms": frame_ms.get("p90"),
        "latency_iqr_ms": frame_ms.get("iqr"),
        "ttft_ms": (summary["ttft_ms"] or {}).get("median"),
        "flops_per_frame": sum(summary["flops_per_frame"].values()),
        "kv_bytes": (summary["kv_bytes"]["device"] or 0) + (summary["kv_bytes"]["host"] or 0),
        "peak_mem_gib": summary["peak_mem_gib"],
        "run": run,
        "fingerprint": summary["fingerprint"],
    }


def _varying_keys(settings: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Keys, but budgets and names, that differ between runs of the same name."""
    varying = set()
    for name in set(names):
        group = [flat for flat, other in zip(settings, names, strict=True) if other == name]
        keys = set().union(*group) - {*BUDGET_KEYS, *NAME_KEYS, "data_digest", "weights_digest"}
        varying |= {key for key in keys if len({repr(flat.get(key)) for flat in group}) > 1}
    return sorted(varying)


def _with_settings(name: str, flat: Mapping[str, Any], keys: Sequence[str]) -> str:
    shown = [f"{key.removeprefix('cacher.').removeprefix('pruner.')}={flat[key]}" for key in keys if key in flat]
    return f"{name} ({', '.join(shown)})" if shown else name

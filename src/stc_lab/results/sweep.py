"""Finished runs as the points of a frontier: what their lines are called, and which of them no other point beats."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stc_lab.results.axes import ACCURACY, COSTS, GROUPS, Cost, axis_values, cost_of
from stc_lab.results.records import (
    write_text_atomically,
)
from stc_lab.results.runs import Found, Run, find_runs

BUDGET_KEYS = ("pruner.num_tokens", "memory.budget", "memory.num_frames")
NAME_KEYS = tuple(f"{group}.name" for group in GROUPS)
UNKNOWN = "unknown"
UNNAMED_KEYS = ("data_digest", "weights_digest", "version")


def line_labels(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the points of one line have in common: memory, cacher, pruner, and all settings that the runs differ in.

    The budgets of pruner and memory move along a line and are no part of its label.
    """
    names = [_methods(flat) for flat in settings]
    # In front: the backbone where there are several, and the memory where a backbone has several.
    pairs = [(flat["backbone.name"], flat.get("memory.name", flat["backbone.name"])) for flat in settings]
    backbones = {backbone for backbone, _ in pairs}
    models = [[backbone] if len(backbones) > 1 else [] for backbone, _ in pairs]
    if len(set(pairs)) > len(backbones):
        models = [[*model, memory] for model, (_, memory) in zip(models, pairs, strict=True)]
    models = ["/".join(dict.fromkeys(model)) for model in models]
    names = [f"{model}: {name}".strip(": ") for model, name in zip(models, names, strict=True)]
    if len({flat["dataset.name"] for flat in settings}) > 1:
        names = [f"{name} on {flat['dataset.name']}" for flat, name in zip(settings, names, strict=True)]
    names = [name or flat["backbone.name"] for flat, name in zip(settings, names, strict=True)]
    varying = _varying_keys(settings, names)
    return [_with_settings(name, flat, varying) for flat, name in zip(settings, names, strict=True)]


def _methods(flat: Mapping[str, Any]) -> str:
    """Cacher and pruner; nothing for imported predictions, of which only a name is known."""
    names = (str(flat["cacher.name"]), str(flat["pruner.name"]))
    return "" if set(names) == {UNKNOWN} else " + ".join(names)


def _varying_keys(settings: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Keys, but budgets and names, that tell runs of the same name apart."""
    varying: set[str] = set()
    for name in set(names):
        varying |= _telling_keys([flat for flat, other in zip(settings, names, strict=True) if other == name])
    return sorted(varying)


def _telling_keys(group: Sequence[Mapping[str, Any]]) -> set[str]:
    """Keys with several values; those that only some runs have (a setting without effect is left out) if need be."""
    keys = set().union(*group) - {*BUDGET_KEYS, *NAME_KEYS, *UNNAMED_KEYS}
    # A key that some runs lack has no effect there; it only tells runs apart when nothing else does.
    several = {key for key in keys if len({repr(flat[key]) for flat in group if key in flat}) > 1}
    differing = several | {key for key in keys if any(key not in flat for flat in group)}
    return several if _num_told_apart(group, several) == _num_told_apart(group, differing) else differing


def _num_told_apart(group: Sequence[Mapping[str, Any]], keys: set[str]) -> int:
    return len({tuple((key, repr(flat[key])) for key in sorted(keys) if key in flat) for flat in group})


def _with_settings(name: str, flat: Mapping[str, Any], keys: Sequence[str]) -> str:
    shown = [f"{key.removeprefix('cacher.').removeprefix('pruner.')}={flat[key]}" for key in keys if key in flat]
    return f"{name} ({', '.join(shown)})" if shown else name


TRIVIAL_PRUNERS = ("random", "uniform", "downsample", "recent")
TRIVIAL_BACKBONES = ("recent",)
WHOLE_MEMORY = "all"
"""The memory that leaves nothing out."""
TRIVIAL_MEMORY = "recent"
"""The last tokens alone: what a memory has to beat. It is trivial only beside another one."""


@dataclass(frozen=True)
class Sweep:
    """One row per distinct finished run, and the reason for every other folder: failed, unfinished, or ``refused``.

    Points are compared within their ``benchmark``: the same questions, on the same device.
    """

    points: pd.DataFrame
    left_out: dict[str, str]
    cost: Cost = COSTS["latency"]
    runs: dict[str, Run] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


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
        points = _with_one_reference(points)
        points["is_non_dominated"] = False
        for _, group in points.groupby("benchmark"):
            points.loc[group.index, "is_non_dominated"] = non_dominated(group["accuracy"], group[axis.column])
        # The last tokens are a baseline where there is another memory to compare with.
        num_memories = points.groupby(["benchmark", "backbone"])["memory"].transform("nunique")
        points["is_trivial"] |= points["memory"].eq(TRIVIAL_MEMORY) & (num_memories > 1)
        order = ["benchmark", "label", "requested_tokens", "requested_tokens_read", "run"]
        points = points.sort_values(order, ignore_index=True)
    return Sweep(points, found.left_out, axis, {run.name: run for run in found.runs}, found.refused)


def _with_one_reference(points: pd.DataFrame) -> pd.DataFrame:
    """Of the runs without cacher and pruner, those of one memory stay the uncompressed ones of their backbone.

    Where a sweep has several memories, or one with several settings, the others are points of their own lines. The
    memory that keeps everything stays, else that of the backbone's name, else the one of which questions read most.
    """
    points["is_plain"] = points["is_uncompressed"]
    for _, group in points[points["is_plain"]].groupby(["benchmark", "backbone"]):
        # First "all", then the memory that gave the backbone its name, then any; of equals the one that reads most.
        rank = 2 * group["memory"].eq(WHOLE_MEMORY) + group["memory"].eq(group["backbone"])
        best = group[rank == rank.max()]
        first = best.loc[best["tokens_read"].astype(float).fillna(0).idxmax()]
        same = group["memory"].eq(first["memory"]) & group["memory_settings"].eq(first["memory_settings"])
        points.loc[group.index, "is_uncompressed"] = same
    return points


def non_dominated(accuracy: Sequence[float], cost: Sequence[float]) -> np.ndarray:
    """Mask [N] of the points for which no other is at least as good in both and better in one.

    Points without accuracy or cost (NaN) are never in the set; equal points are in it together.
    """
    gain, cost = np.asarray(accuracy, dtype=float), np.asarray(cost, dtype=float)
    # Row i, column j: whether point j is at least as good as i in both, and better in one.
    as_good = (gain[None] >= gain[:, None]) & (cost[None] <= cost[:, None])
    better = (gain[None] > gain[:, None]) | (cost[None] < cost[:, None])
    return ~(as_good & better).any(axis=1) & ~np.isnan(gain) & ~np.isnan(cost)


def benchmark_names(runs: Iterable[Run]) -> dict[str, str]:
    """What each run may be compared on, by run name: the dataset, and as much more as tells them apart.

    Runs are comparable when they were asked the same questions on the same device in the same precision.
    """
    keys = {run.name: (run.names["dataset"], _questions_of(run), _machine_of(run)) for run in runs}
    names = {name: dataset for name, (dataset, _, _) in keys.items()}
    # The name grows only where it must: by the questions, then by the machine.
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
        "refused": sweep.refused,
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
    names = run.names
    return {
        **{group: names[group] for group in GROUPS},
        "memory_settings": run.memory_settings,
        "is_uncompressed": run.is_uncompressed,
        "is_trivial": names["pruner"] in TRIVIAL_PRUNERS or names["backbone"] in TRIVIAL_BACKBONES,
        **axis_values(run.summary),
        "run": run.name,
        "fingerprint": run.fingerprint,
    }


def hypervolume(accuracy: Sequence[float], cost: Sequence[float], worst_accuracy: float, worst_cost: float) -> float:
    """Area that at least one point dominates, bounded by the reference point (worst accuracy, worst cost).

    Points that are not better than the reference in both, and points without a value (NaN), add nothing.
    """
    gain, cost = np.asarray(accuracy, dtype=float), np.asarray(cost, dtype=float)
    inside = (gain > worst_accuracy) & (cost < worst_cost)
    # A staircase from the cheapest point on: between two costs the best accuracy so far counts.
    order = np.argsort(cost[inside], kind="stable")
    steps = np.append(cost[inside][order], worst_cost)
    best = np.maximum.accumulate(gain[inside][order])
    return float(np.sum((best - worst_accuracy) * np.diff(steps)))


def hypervolumes(points: pd.DataFrame, cost: Cost) -> list[dict[str, Any]]:
    """Per benchmark and backbone: the reference, and the numbers of all its points and of every line.

    ``share``: area below the accuracy that is reached at each cost, from zero accuracy up and as far as the cost of
    the uncompressed run, over accuracy times cost of that run. 0: nothing is cheaper; 1: its whole accuracy at no
    cost. ``beyond``: the part of it that lies above the accuracy of the uncompressed run: better in both. Both are
    ``None`` where there is no uncompressed run.
    """
    return [_of_backbone(group, cost, *key) for key, group in points.groupby(["benchmark", "backbone"], sort=True)]


def _of_backbone(points: pd.DataFrame, cost: Cost, benchmark: str, backbone: str) -> dict[str, Any]:
    known = points[points["is_uncompressed"]].dropna(subset=["accuracy", cost.column])
    where = {"benchmark": benchmark, "backbone": backbone}
    # Of several memories the one that keeps everything, which costs most.
    full = None if known.empty else known.loc[known[cost.column].idxmax()]
    if full is None or not full["accuracy"] or not full[cost.column]:
        return {**where, "reference": None, "all": _shares(points, cost, None), "by_label": {}}
    methods = points[~points["is_uncompressed"]]
    return {
        **where,
        "reference": {"run": full["run"], "accuracy": full["accuracy"], cost.column: full[cost.column]},
        "all": _shares(methods, cost, full),
        "by_label": {label: _shares(line, cost, full) for label, line in methods.groupby("label", sort=True)},
    }


def _shares(points: pd.DataFrame, cost: Cost, full: pd.Series | None) -> dict[str, float | None]:
    if full is None:
        return {"share": None, "beyond": None}
    box = full["accuracy"] * full[cost.column]
    floors = {"share": 0.0, "beyond": full["accuracy"]}
    return {
        name: hypervolume(points["accuracy"], points[cost.column], floor, full[cost.column]) / box
        for name, floor in floors.items()
    }

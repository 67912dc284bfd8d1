"""One number for a set of points: how much of the plane between it and the uncompressed run it dominates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from stc_lab.results.axes import Cost


def hypervolume(accuracy: Sequence[float], cost: Sequence[float], worst_accuracy: float, worst_cost: float) -> float:
    """Area that at least one point dominates, bounded by the reference point (worst accuracy, worst cost).

    Points that are not better than the reference in both, and points without a value (NaN), add nothing.
    """
    gain, cost = np.asarray(accuracy, dtype=float), np.asarray(cost, dtype=float)
    inside = (gain > worst_accuracy) & (cost < worst_cost)
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
    if known.empty or not known.iloc[0]["accuracy"] or not known.iloc[0][cost.column]:
        return {**where, "reference": None, "all": _shares(points, cost, None), "by_label": {}}
    full = known.iloc[0]
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

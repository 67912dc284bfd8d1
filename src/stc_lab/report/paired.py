"""Differences between runs on the questions that both were asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from stc_lab.report.text import unique_names
from stc_lab.results.pareto import Sweep
from stc_lab.results.runs import Run

AUTO = "auto"
UNCOMPRESSED, RANDOM = "the uncompressed run", "random at the same budget"
EXPLANATION = (
    "Percentage points of accuracy, this run minus the other, question by question. The interval resamples streams; p is "
    "McNemar's exact test over the questions that only one of them got right. Many comparisons find something by "
    "chance: one in twenty would look like a difference at p below 0.05."
)


def paired_section(sweep: Sweep, baseline: str) -> dict[str, Any]:
    """Rows for every run and every baseline that can be chosen in the page.

    ``baseline``: ``auto`` for the uncompressed run and ``random`` at an equal budget, or the name of a run (its folder
    in the sweep), which is then offered first. Raises ``ValueError`` for a name that is no run.
    """
    if baseline != AUTO and baseline not in sweep.runs:
        raise ValueError(f"report.baseline={baseline}: must be auto or one of {', '.join(sweep.runs)}")
    names = unique_names(sweep.points)
    choices = {} if baseline == AUTO else {names[baseline]: lambda point, others: _named(others, baseline)}
    choices |= {UNCOMPRESSED: _uncompressed, RANDOM: _random_twin}
    rows = [
        _row(sweep, names, choice, point["run"], other)
        for choice, find in choices.items()
        for _, points in sweep.points.groupby("benchmark")
        for _, point in points.iterrows()
        for other in find(point, points)
        if other != point["run"]
    ]
    rows = [row for row in rows if row is not None]
    offered = [choice for choice in choices if any(row["choice"] == choice for row in rows)]
    return {"rows": rows, "baselines": offered, "explanation": EXPLANATION}


def _named(others: pd.DataFrame, run: str) -> list[str]:
    return others.loc[others["run"] == run, "run"].tolist()


def _uncompressed(point: pd.Series, others: pd.DataFrame) -> list[str]:
    found = others[others["is_uncompressed"] & (others["backbone"] == point["backbone"])]
    return found["run"].tolist()[:1]


def _random_twin(point: pd.Series, others: pd.DataFrame) -> list[str]:
    """The run with random tokens that is equal in backbone, cacher and budget."""
    same = others["pruner"].eq("random") & (point["pruner"] != "random")
    for key in ("backbone", "cacher", "requested_tokens"):
        same &= others[key] == point[key]
    return others.loc[same, "run"].tolist()[:1]


def _row(sweep: Sweep, names: dict[str, str], choice: str, run: str, other: str) -> dict[str, Any] | None:
    found = _compare(sweep.runs[run], sweep.runs[other])
    if found is None:
        return None
    benchmark = sweep.points.set_index("run").loc[run, "benchmark"]
    return {"choice": choice, "run": run, "name": names[run], "other": names[other], "benchmark": benchmark, **found}


def _compare(run: Run, other: Run) -> dict[str, Any] | None:
    theirs = {record.key: record.correct for record in other.records}
    shared = [r for r in run.records if r.correct is not None and theirs.get(r.key) is not None]
    if not shared:
        return None
    gain = np.array([int(r.correct) - int(theirs[r.key]) for r in shared])
    _, cluster = np.unique([r.stream_id for r in shared], return_inverse=True)
    sums, sizes = np.bincount(cluster, weights=gain), np.bincount(cluster)
    picks = np.random.default_rng(0).integers(0, len(sums), (2000, len(sums)))
    low, high = np.percentile(sums[picks].sum(1) / sizes[picks].sum(1), [2.5, 97.5])
    better, worse = int((gain > 0).sum()), int((gain < 0).sum())
    p = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
    return {
        "num_questions": len(shared), "difference": float(gain.mean()), "low": float(low), "high": float(high),
        "num_better": better, "num_worse": worse, "p_value": float(p), "words": "",
    }  # fmt: skip

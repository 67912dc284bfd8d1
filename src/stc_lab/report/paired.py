"""Differences between runs on the questions that both were asked."""

from __future__ import annotations

from typing import Any

import pandas as pd

from stc_lab.report.text import unique_names
from stc_lab.results.averages import Average
from stc_lab.results.paired import compare, in_words, shared_pairs
from stc_lab.results.pareto import Sweep
from stc_lab.results.runs import Run
from stc_lab.scoring.rules import rule_of

AUTO = "auto"
UNCOMPRESSED, RANDOM = "the uncompressed run", "random at the same budget"
EXPLANATION = (
    "Percentage points of accuracy, this run minus the other, question by question. The interval resamples streams; "
    "p is McNemar's exact test over the questions that only one of them got right. Many comparisons find something "
    "by chance: one in twenty would look like a difference at p below 0.05."
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
    found = _compare(sweep.runs[run], sweep.runs[other], (names[run], names[other]))
    if found is None:
        return None
    benchmark = sweep.points.set_index("run").loc[run, "benchmark"]
    return {"choice": choice, "run": run, "name": names[run], "other": names[other], "benchmark": benchmark, **found}


def _compare(run: Run, other: Run, names: tuple[str, str]) -> dict[str, Any] | None:
    """What ``run`` does to ``other`` on their shared questions; ``None`` when there are none."""
    pairs = shared_pairs(other.records, run.records)
    if not pairs:
        return None
    rule = rule_of(run.names["dataset"])
    found = compare(pairs, Average(rule.average, rule.groups) if rule else None)
    low, high = found.ci95 or (None, None)
    return {
        "num_questions": found.num_questions, "difference": found.difference, "low": low, "high": high,
        "num_better": found.num_only_second, "num_worse": found.num_only_first, "p_value": found.p_value,
        "words": in_words(found, names[1], names[0]),
    }  # fmt: skip

"""What a run is held against: the uncompressed run, random tokens, the last tokens; and which of them were not run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
from hydra.utils import get_class
from omegaconf import OmegaConf

from stc_lab.benchmarks import rule_of
from stc_lab.config import conf_dir
from stc_lab.config.help import group_choices
from stc_lab.report.sections import unique_names
from stc_lab.results.comparison import compare, in_words, shared_pairs
from stc_lab.results.runs import Run
from stc_lab.results.statistics import Average
from stc_lab.results.sweep import TRIVIAL_MEMORY, WHOLE_MEMORY, Sweep

WANTED_PRUNERS = ("random", "uniform", "downsample")
MOST_UNEQUAL = 0.1
"""Read tokens that differ by at most this share count as matched."""
AUTO = "auto"
UNCOMPRESSED, RANDOM = "the uncompressed run", "random at the same budget"
RECENT = "the last tokens, as many read"
EXPLANATION = (
    "Percentage points of accuracy, this run minus the other, question by question. The interval resamples streams; "
    "p is McNemar's exact test over the questions that only one of them got right. Many comparisons find something "
    "by chance: one in twenty would look like a difference at p below 0.05."
)


@dataclass(frozen=True)
class Note:
    """A remark at the top of the page, with the words for the command line that do something about it."""

    text: str
    command: str | None = None


def missing_baselines(points: pd.DataFrame) -> list[Note]:
    """A note per benchmark and backbone whose picture lacks the uncompressed run, a trivial pruner, or ``recent``."""
    notes: list[Note] = []
    for (benchmark, backbone), group in points.groupby(["benchmark", "backbone"], sort=True):
        notes += [*_missing_pruners(group, benchmark, backbone), *_missing_recent(group, benchmark, backbone)]
    return notes


def _missing_pruners(points: pd.DataFrame, benchmark: str, backbone: str) -> Iterator[Note]:
    there = set(points.loc[points["cacher"] == "none", "pruner"])
    wanted = [name for name in WANTED_PRUNERS if name in group_choices()["pruner"]]
    missing = [name for name in ("none", *wanted) if name not in there]
    budgets = sorted({int(tokens) for tokens in points.loc[points["pruner"] != "none", "requested_tokens"].dropna()})
    if not missing or not budgets:
        return
    names = ", ".join("the uncompressed run" if name == "none" else name for name in missing)
    yield Note(
        f"{backbone} on {benchmark}: not measured yet: {names}. Add to the command of the multirun, with "
        f"hydra.sweep.dir=FOLDER of this sweep, and they are drawn here too:",
        f"cacher=none pruner={','.join(missing)} pruner.budget={','.join(map(str, budgets))}",
    )


def _missing_recent(points: pd.DataFrame, benchmark: str, backbone: str) -> Iterator[Note]:
    """A memory is worth something when it beats the last tokens, of which a question reads as many."""
    methods = points[~points["memory"].isin((TRIVIAL_MEMORY, WHOLE_MEMORY))].dropna(subset=["tokens_read"])
    alone = [point["run"] for _, point in methods.iterrows() if not recent_match(point, points)]
    if not alone or not _takes_recent(backbone):
        return
    for memory, lines in methods[methods["run"].isin(alone)].groupby("memory", sort=True):
        budgets = sorted({round(tokens) for tokens in lines["tokens_read"]})
        yield Note(
            f"{backbone} on {benchmark}: beside memory={memory} the last tokens were not run with as many tokens read "
            f"(within {MOST_UNEQUAL:.0%}). Add to the command of the multirun, with hydra.sweep.dir=FOLDER of this "
            f"sweep, and they are drawn here too:",
            f"memory={TRIVIAL_MEMORY} memory.budget={','.join(map(str, budgets))}",
        )


def _takes_recent(backbone: str) -> bool:
    """Whether the backbone is one of ours and takes other memories than that of its trained format."""
    path = conf_dir() / "backbone" / f"{backbone}.yaml"
    if not path.is_file():
        return False
    memories = get_class(OmegaConf.load(path)["_target_"]).memories
    return memories is None or TRIVIAL_MEMORY in memories


def paired_section(sweep: Sweep, baseline: str) -> dict[str, Any]:
    """Rows for every run and every baseline that can be chosen in the page.

    ``baseline``: ``auto`` for the uncompressed run, ``random`` at an equal budget and the memory ``recent`` at as many
    read tokens, or the name of a run (its folder in the sweep), which is then offered first. Raises ``ValueError`` for
    a name that is no run.
    """
    if baseline != AUTO and baseline not in sweep.runs:
        raise ValueError(f"report.baseline={baseline}: must be auto or one of {', '.join(sweep.runs)}")
    names = unique_names(sweep.points)
    choices: dict[str, Callable[[pd.Series, pd.DataFrame], list[str]]] = {}
    if baseline != AUTO:
        choices[names[baseline]] = lambda point, others: others.loc[others["run"] == baseline, "run"].tolist()
    choices |= {UNCOMPRESSED: _uncompressed, RANDOM: _random_at_same_budget, RECENT: recent_match}
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


def _uncompressed(point: pd.Series, others: pd.DataFrame) -> list[str]:
    """Of the same backbone: the one with the same memory; for a run of a memory alone, the reference of the picture."""
    same = others["is_plain"] & (others["backbone"] == point["backbone"])
    for key in ("memory", "memory_settings"):
        same &= (others[key] == point[key]) & (not point["is_plain"])
    reference = others["is_uncompressed"] & (others["backbone"] == point["backbone"])
    return [*others.loc[same, "run"], *others.loc[reference, "run"]][:1]


def _random_at_same_budget(point: pd.Series, others: pd.DataFrame) -> list[str]:
    """The run with random tokens that is equal in everything but the pruner."""
    # The same model, memory and cacher at the same budget: only the choice of tokens differs.
    same = others["pruner"].eq("random") & (point["pruner"] != "random")
    for key in ("backbone", "memory", "memory_settings", "cacher", "requested_tokens"):
        same &= others[key] == point[key]
    return others.loc[same, "run"].tolist()[:1]


def recent_match(point: pd.Series, others: pd.DataFrame) -> list[str]:
    """The run with the memory ``recent`` of which questions read as many tokens, equal in all but the memory."""
    if point["memory"] in (TRIVIAL_MEMORY, WHOLE_MEMORY) or pd.isna(point["tokens_read"]):
        return []
    # The same frames, cached and pruned alike: only the memory differs, at the number of read tokens it achieves.
    same = others["memory"].eq(TRIVIAL_MEMORY)
    for key in ("backbone", "cacher", "pruner", "requested_tokens"):
        same &= others[key] == point[key]
    distance = (others["tokens_read"] - point["tokens_read"]).abs()[same]
    return others.loc[distance[distance <= MOST_UNEQUAL * point["tokens_read"]].sort_values().index, "run"].tolist()[:1]


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

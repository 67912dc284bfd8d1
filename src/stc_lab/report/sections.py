"""What the page and ``pareto.md`` say in words and tables: names, points, missing baselines, paired differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import Any

import pandas as pd

from stc_lab.config.help import group_choices
from stc_lab.report.paper import LATENCY, PaperRow, paper_rows
from stc_lab.report.tables import format_count
from stc_lab.results.axes import COSTS
from stc_lab.results.comparison import compare, in_words, shared_pairs
from stc_lab.results.statistics import Average
from stc_lab.results.sweep import Run, Sweep, hypervolumes
from stc_lab.scoring.rules import rule_of

HOVER_WIDTH = 70
HOVER_GROUPS = ("backbone", "cacher", "pruner", "dataset")


def point_name(point: pd.Series) -> str:
    """Line and budget: ``stc + stc, 64 tokens``."""
    if pd.isna(point["achieved_tokens"]):
        return str(point["label"])
    return f"{point['label']}, {point['achieved_tokens']:.0f} tokens"


def unique_names(points: pd.DataFrame) -> dict[str, str]:
    """Name of each run; a second one of the same name is told apart by its folder."""
    names: dict[str, str] = {}
    for _, point in points.iterrows():
        name = point_name(point)
        names[point["run"]] = f"{name} ({point['run']})" if name in names.values() else name
    return names


def value_text(value: float | None, show: str) -> str:
    """``value`` in the given format; a dash when it is unknown."""
    return "-" if value is None or pd.isna(value) else show.format(value)


def accuracy_text(point: pd.Series) -> str:
    """``83.1 % [78.0, 87.4]``; a dash without scored questions."""
    if pd.isna(point["accuracy"]):
        return "-"
    return f"{100 * point['accuracy']:.1f} % [{100 * point['accuracy_low']:.1f}, {100 * point['accuracy_high']:.1f}]"


def hover_text(point: pd.Series, run: Run) -> str:
    """Everything about a run that fits into a hover box, as the HTML that plotly understands."""
    requested = value_text(point["requested_tokens"], "{:.0f}")
    others = [cost for cost in COSTS.values() if cost.name != "tokens"]
    lines = [
        f"<b>{escape(str(point['label']))}</b>",
        f"accuracy {accuracy_text(point)}, {point['num_questions']} questions",
        f"tokens per frame {value_text(point['achieved_tokens'], '{:.1f}')} (asked for {requested})",
        *(f"{cost.label}: {value_text(point[cost.column], cost.show)}" for cost in others),
        *_settings_lines(run.settings),
    ]  # fmt: skip
    return "<br>".join(lines)


def _settings_lines(settings: Mapping[str, Any]) -> list[str]:
    lines = []
    for group in HOVER_GROUPS:
        flat = {key.partition(".")[2]: value for key, value in settings.items() if key.startswith(f"{group}.")}
        text = f"{group}: " + ", ".join(f"{key}={value}" for key, value in flat.items())
        lines += [escape(line) for line in wrap(text, HOVER_WIDTH, subsequent_indent="    ")]
    return lines


SEARCHED_GROUPS = ("backbone.", "cacher.", "pruner.", "dataset.")


@dataclass(frozen=True)
class Column:
    """``key`` of the table of points; ``show`` makes the text of a cell from the point."""

    key: str
    title: str
    show: Callable[[pd.Series], str]
    is_text: bool = False


def columns() -> tuple[Column, ...]:
    """Columns of the table in the page, from left to right."""
    return (
        Column("is_non_dominated", "*", lambda point: "*" if point["is_non_dominated"] else "", is_text=True),
        Column("label", "cacher + pruner", lambda point: point["label"], is_text=True),
        Column("achieved_tokens", "tokens per frame", lambda point: value_text(point["achieved_tokens"], "{:.1f}")),
        Column("requested_tokens", "asked for", lambda point: value_text(point["requested_tokens"], "{:.0f}")),
        Column("accuracy", "accuracy, 95 % interval", accuracy_text),
        Column("latency_ms", "frame ms", lambda point: value_text(point["latency_ms"], "{:.1f}")),
        Column("ttft_ms", "first token ms", lambda point: value_text(point["ttft_ms"], "{:.1f}")),
        Column("flops_per_frame", "FLOPs per frame", lambda point: flops_text(point["flops_per_frame"])),
        Column("kv_mib", "keys and values MiB", lambda point: value_text(point["kv_mib"], "{:.3g}")),
        Column("peak_mem_gib", "peak memory GiB", lambda point: value_text(point["peak_mem_gib"], "{:.2f}")),
        Column("update_ratio", "vision recomputed", lambda point: value_text(point["update_ratio"], "{:.0%}")),
        Column("coverage", "answered", lambda point: value_text(point["coverage"], "{:.0%}")),
        Column("num_questions", "questions", lambda point: str(point["num_questions"])),
        Column("run", "run", lambda point: point["run"], is_text=True),
    )


def table_rows(sweep: Sweep) -> list[dict[str, Any]]:
    """One row per point: cells with their text and the value they are sorted by."""
    return [
        {
            "run": point["run"],
            "benchmark": point["benchmark"],
            "is_front": point["is_non_dominated"],
            "cells": [
                {"text": column.show(point), "value": _sort_value(point[column.key]), "is_text": column.is_text}
                for column in columns()
            ],
        }
        for _, point in sweep.points.iterrows()
    ]


def hypervolume_rows(sweep: Sweep) -> list[dict[str, Any]]:
    """Per benchmark and backbone: all points together, then every line, the largest share first."""
    rows = []
    for part in hypervolumes(sweep.points, sweep.cost):
        if part["reference"] is None:
            continue
        lines = sorted(part["by_label"].items(), key=lambda item: -item[1]["share"])
        everything = (f"all runs of {part['backbone']}", part["all"])
        rows += [{"label": label, "benchmark": part["benchmark"], **shares} for label, shares in [everything, *lines]]
    return rows


def search_texts(sweep: Sweep) -> dict[str, str]:
    """What the filter looks into, by run: label, folder, and settings as ``budget=64`` and ``pruner.budget=64``."""
    points = {point["run"]: point for _, point in sweep.points.iterrows()}
    return {run: _search_text(point, sweep.runs[run].settings) for run, point in points.items()}


def _search_text(point: pd.Series, settings: Mapping[str, Any]) -> str:
    pairs = [f"{key}={value}" for key, value in settings.items() if key.startswith(SEARCHED_GROUPS)]
    budget = f"budget={value_text(point['requested_tokens'], '{:.0f}')}"
    return " ".join([point["label"], point["run"], point["benchmark"], budget, *pairs]).lower()


def _sort_value(value: Any) -> str:
    return "" if pd.isna(value) else str(value)


def flops_text(value: float | None) -> str:
    """``1.96 G``; a dash when unknown."""
    return "-" if pd.isna(value) else format_count(value)


WANTED_PRUNERS = ("random", "uniform", "downsample")


@dataclass(frozen=True)
class Note:
    """A remark at the top of the page, with the command that does something about it."""

    text: str
    command: str | None = None


def missing_baselines(points: pd.DataFrame) -> list[Note]:
    """A note per benchmark and backbone whose picture lacks the uncompressed run or a trivial baseline."""
    pairs = points.groupby(["benchmark", "backbone"], sort=True)
    notes = [_missing_note(group, benchmark, backbone) for (benchmark, backbone), group in pairs]
    return [note for note in notes if note is not None]


def _missing_note(points: pd.DataFrame, benchmark: str, backbone: str) -> Note | None:
    there = set(points.loc[points["cacher"] == "none", "pruner"])
    wanted = [name for name in WANTED_PRUNERS if name in group_choices()["pruner"]]
    missing = [name for name in ("none", *wanted) if name not in there]
    if not missing or points["requested_tokens"].isna().all():
        return None
    budgets = sorted({int(tokens) for tokens in points.loc[points["pruner"] != "none", "requested_tokens"].dropna()})
    arguments = f"cacher=none pruner={','.join(missing)} pruner.budget={','.join(map(str, budgets))}"
    names = ", ".join("the uncompressed run" if name == "none" else name for name in missing)
    return Note(
        f"{backbone} on {benchmark}: not measured yet: {names}. Add to the command of the multirun, with "
        f"hydra.sweep.dir=FOLDER of this sweep, and they are drawn here too:",
        arguments,
    )


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


TABLE_FILE = "pareto.md"
STAGES = ("vision", "prune", "prefill")
HEAD = (
    "cacher + pruner", "tokens per frame", "accuracy, 95 % interval", f"against {UNCOMPRESSED}", f"against {RANDOM}",
    *(f"{stage} ms" for stage in STAGES), "FLOPs per frame",
)  # fmt: skip
NOTE = (
    "Differences are percentage points with 95 % interval, question by question; **bold** where the interval leaves "
    "out zero. Times are medians per frame (25th to 75th percentile)."
)


def write_markdown(sweep: Sweep, out: Path, paired: Mapping[str, Any]) -> Path:
    """Write ``pareto.md`` into the folder ``out`` and return its path: by budget, the most accurate first.

    ``paired``: of :func:`paired_section`; rows of baselines that were chosen are left out.
    """
    rows = paired["rows"]
    differences = {(row["run"], row["choice"]): _difference(row) for row in rows}
    order = ["benchmark", "achieved_tokens", "accuracy"]
    points = sweep.points.sort_values(order, ascending=[True, False, False])
    rows = [_markdown_line(_markdown_cells(sweep, point, differences)) for _, point in points.iterrows()]
    lines = [_markdown_line(HEAD), _markdown_line(["---"] * len(HEAD)), *rows]
    path = out / TABLE_FILE
    path.write_text("\n".join([*lines, "", NOTE, ""]), encoding="utf-8")
    return path


def _markdown_line(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cells(sweep: Sweep, point: pd.Series, differences: dict[tuple[str, str], str]) -> list[str]:
    run = point["run"]
    return [
        str(point["label"]),
        value_text(point["achieved_tokens"], "{:.1f}"),
        accuracy_text(point),
        differences.get((run, UNCOMPRESSED), ""),
        differences.get((run, RANDOM), ""),
        *(_stage_text(sweep.runs[run].summary, stage) for stage in STAGES),
        flops_text(point["flops_per_frame"]),
    ]


def _difference(row: dict) -> str:
    text = f"{100 * row['difference']:+.1f}"
    if row["low"] is None:
        return text
    is_clear = row["low"] > 0 or row["high"] < 0
    return f"{f'**{text}**' if is_clear else text} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"


def _stage_text(summary: dict, stage: str) -> str:
    times = (summary.get("latency_ms") or {}).get(stage)
    return f"{times['median']:.1f} ({times['p25']:.1f} to {times['p75']:.1f})" if times else "-"


def paper_table(points: pd.DataFrame) -> list[dict[str, str]]:
    """One row per row of the paper's tables for the datasets of ``points``; empty when the paper has none of them."""
    datasets = sorted(points["dataset"].unique())
    return [_paper_row(dataset, row, points) for dataset in datasets for row in paper_rows(dataset)]


def measured(row: PaperRow, points: pd.DataFrame) -> pd.Series | None:
    """The run of the same backbone and methods that kept the same share of tokens; ``None`` where there is none."""
    same = points[["backbone", "cacher", "pruner"]].eq([row.backbone, row.cacher, row.pruner]).all(axis=1)
    if row.pruner != "none":
        kept = math.floor(row.settings["keep_ratio"] * _full_tokens(points, row.backbone))
        same &= points["requested_tokens"] == kept
    found = points[same]
    return None if found.empty else found.iloc[0]


def _full_tokens(points: pd.DataFrame, backbone: str) -> float:
    """Tokens of an unpruned frame, which the runs without pruner show; 196 (ReKV) where there is none."""
    whole = points[(points["backbone"] == backbone) & (points["pruner"] == "none")]["requested_tokens"].dropna()
    return whole.iloc[0] if len(whole) else 196


def _paper_row(dataset: str, row: PaperRow, points: pd.DataFrame) -> dict[str, str]:
    run = measured(row, points[points["dataset"] == dataset])
    times = {name: f"{row.latency_ms[name]:g}" if name in row.latency_ms else "-" for name in LATENCY}
    return {
        "benchmark": dataset,
        "label": row.label,
        "kept": f"{100 * row.settings['keep_ratio']:.0f} %",
        "score": f"{row.overall(dataset):.1f} %",
        "measured": "-" if run is None else accuracy_text(run),
        **times,
        "notes": " ".join(row.notes),
    }

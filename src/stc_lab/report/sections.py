"""How points are named and numbers written, and the tables of points, areas and paper rows in the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from textwrap import wrap
from typing import Any

import pandas as pd

from stc_lab.report.paper import LATENCY, PaperRow, paper_rows
from stc_lab.report.tables import format_count
from stc_lab.results.axes import COSTS, GROUPS
from stc_lab.results.runs import Run
from stc_lab.results.sweep import Sweep, hypervolumes

HOVER_WIDTH = 70


def point_name(point: pd.Series) -> str:
    """Line and budgets: ``stc + stc, 64 tokens``, with a budget of the memory also ``, 512 read``."""
    name = str(point["label"])
    if not pd.isna(point["achieved_tokens"]):
        name += f", {point['achieved_tokens']:.0f} tokens"
    if not pd.isna(point["requested_tokens_read"]):
        name += f", {value_text(point['tokens_read'], '{:.0f}')} read"
    return name


def has_several_budgets(points: pd.DataFrame) -> bool:
    """Whether some runs are limited in tokens per frame, and some in the tokens that a question reads."""
    return bool(points["pruner"].ne("none").any() and points["requested_tokens_read"].notna().any())


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
    others = [cost for cost in COSTS.values() if cost.name != "tokens" and not pd.isna(point[cost.column])]
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
    for group in GROUPS:
        flat = {key.partition(".")[2]: value for key, value in settings.items() if key.startswith(f"{group}.")}
        text = f"{group}: " + ", ".join(f"{key}={value}" for key, value in flat.items())
        lines += [escape(line) for line in wrap(text, HOVER_WIDTH, subsequent_indent="    ")]
    return lines


SEARCHED = tuple(f"{group}." for group in GROUPS)


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
        Column("memory", "memory", lambda point: point["memory"], is_text=True),
        Column("memory_settings", "memory settings", lambda point: point["memory_settings"], is_text=True),
        Column("achieved_tokens", "tokens per frame", lambda point: value_text(point["achieved_tokens"], "{:.1f}")),
        Column("requested_tokens", "asked for", lambda point: value_text(point["requested_tokens"], "{:.0f}")),
        Column("tokens_read", "tokens read", lambda point: value_text(point["tokens_read"], "{:.1f}")),
        Column(
            "tokens_read_max_layer", "in one layer", lambda point: value_text(point["tokens_read_max_layer"], "{:.0f}")
        ),
        Column("kept_mib", "MiB kept", lambda point: value_text(point["kept_mib"], "{:.3g}")),
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
    pairs = [f"{key}={value}" for key, value in settings.items() if key.startswith(SEARCHED)]
    budget = f"budget={value_text(point['requested_tokens'], '{:.0f}')}"
    return " ".join([point["label"], point["run"], point["benchmark"], budget, *pairs]).lower()


def _sort_value(value: Any) -> str:
    return "" if pd.isna(value) else str(value)


def flops_text(value: float | None) -> str:
    """``1.96 G``; a dash when unknown."""
    return "-" if pd.isna(value) else format_count(value)


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

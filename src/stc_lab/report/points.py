"""The table of runs, the numbers of each line, and the texts that the filter searches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from stc_lab.report.text import accuracy_text, value_text
from stc_lab.results.hypervolume import hypervolumes
from stc_lab.results.pareto import Sweep
from stc_lab.results.table import format_count

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

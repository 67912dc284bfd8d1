"""The paper's own numbers for the benchmarks of a sweep, beside what was measured."""

from __future__ import annotations

import math

import pandas as pd

from stc_lab.paper import PaperRow, paper_rows
from stc_lab.report.text import accuracy_text

LATENCY = ("vision_ms", "prefill_ms")


def paper_table(points: pd.DataFrame) -> list[dict[str, str]]:
    """One row per row of the paper's tables for the datasets of ``points``; empty when the paper has none of them."""
    datasets = sorted(points["dataset"].unique())
    return [_row(dataset, row, points) for dataset in datasets for row in paper_rows(dataset)]


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


def _row(dataset: str, row: PaperRow, points: pd.DataFrame) -> dict[str, str]:
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

"""The runs as one table in Markdown, for a paper's appendix or a pull request."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from stc_lab.report.paired import RANDOM, UNCOMPRESSED
from stc_lab.report.points import flops_text
from stc_lab.report.text import accuracy_text, value_text
from stc_lab.results.pareto import Sweep

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

    ``paired``: of :func:`stc_lab.report.paired.paired_section`; rows of baselines that were chosen are left out.
    """
    rows = paired["rows"]
    differences = {(row["run"], row["choice"]): _difference(row) for row in rows}
    order = ["benchmark", "achieved_tokens", "accuracy"]
    points = sweep.points.sort_values(order, ascending=[True, False, False])
    rows = [_line(_cells(sweep, point, differences)) for _, point in points.iterrows()]
    lines = [_line(HEAD), _line(["---"] * len(HEAD)), *rows]
    path = out / TABLE_FILE
    path.write_text("\n".join([*lines, "", NOTE, ""]), encoding="utf-8")
    return path


def _line(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(sweep: Sweep, point: pd.Series, differences: dict[tuple[str, str], str]) -> list[str]:
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

"""``pareto.md``: the runs as one table in Markdown, for a paper's appendix or a pull request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from stc_lab.report.baselines import RANDOM, RECENT, UNCOMPRESSED, missing_baselines
from stc_lab.report.sections import accuracy_text, flops_text, has_several_budgets, value_text
from stc_lab.results.sweep import Sweep

TABLE_FILE = "pareto.md"
STAGES = ("vision", "prune", "prefill")
HEAD = (
    "cacher + pruner", "tokens per frame", "tokens read", "MiB kept", "accuracy, 95 % interval",
    *(f"against {name}" for name in (UNCOMPRESSED, RANDOM, RECENT)),
    *(f"{stage} ms" for stage in STAGES), "FLOPs per frame",
)  # fmt: skip
NOTE = (
    "Differences are percentage points with 95 % interval, question by question; **bold** where the interval leaves "
    "out zero. Times are medians per frame (25th to 75th percentile). Tokens read: visual tokens that a question "
    "reads, mean over layers. MiB kept: the largest size of what a stream keeps between frames."
)
SEVERAL_BUDGETS = (
    "Budgets of different kinds stand in this table: tokens per frame are those of the pruner, tokens read those of "
    "the memory. Rows are comparable where they are equal in one of them."
)


def write_markdown(sweep: Sweep, out: Path, paired: Mapping[str, Any]) -> Path:
    """Write ``pareto.md`` into the folder ``out`` and return its path: by budget, the most accurate first.

    ``paired``: of :func:`stc_lab.report.baselines.paired_section`; rows of baselines that were chosen are left out.
    """
    differences = {(row["run"], row["choice"]): _difference(row) for row in paired["rows"]}
    order = ["benchmark", "achieved_tokens", "tokens_read", "accuracy"]
    points = sweep.points.sort_values(order, ascending=[True, False, False, False])
    rows = [_cells(sweep, point, differences) for _, point in points.iterrows()]
    lines = [_line(cells) for cells in (HEAD, ["---"] * len(HEAD), *rows)]
    path = out / TABLE_FILE
    path.write_text("\n".join([*lines, "", NOTE, *_remarks(sweep), ""]), encoding="utf-8")
    return path


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(sweep: Sweep, point: pd.Series, differences: Mapping[tuple[str, str], str]) -> list[str]:
    run = point["run"]
    return [
        str(point["label"]),
        value_text(point["achieved_tokens"], "{:.1f}"),
        value_text(point["tokens_read"], "{:.1f}"),
        value_text(point["kept_mib"], "{:.3g}"),
        accuracy_text(point),
        *(differences.get((run, name), "") for name in (UNCOMPRESSED, RANDOM, RECENT)),
        *(_stage_text(sweep.runs[run].summary, stage) for stage in STAGES),
        flops_text(point["flops_per_frame"]),
    ]


def _difference(row: Mapping[str, Any]) -> str:
    text = f"{100 * row['difference']:+.1f}"
    if row["low"] is None:
        return text
    is_clear = row["low"] > 0 or row["high"] < 0
    return f"{f'**{text}**' if is_clear else text} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"


def _stage_text(summary: Mapping[str, Any], stage: str) -> str:
    times = (summary.get("latency_ms") or {}).get(stage)
    return f"{times['median']:.1f} ({times['p25']:.1f} to {times['p75']:.1f})" if times else "-"


def _remarks(sweep: Sweep) -> Iterator[str]:
    """Paragraphs and lists below the table, each after an empty line."""
    if has_several_budgets(sweep.points):
        yield from ("", SEVERAL_BUDGETS)
    for note in missing_baselines(sweep.points):
        yield from ("", f"{note.text} `{note.command}`")
    for title, reasons in (("Failed or not finished", sweep.left_out), ("Refused, not run", sweep.refused)):
        if reasons:
            yield from ("", f"{title}:", "", *(f"- `{run}`: {' '.join(why.split())}" for run, why in reasons.items()))

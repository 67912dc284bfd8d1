"""All that a multirun leaves: files, picture, page, and a table in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stc_lab.config.schema import ReportSettings
from stc_lab.report.frontier import PICTURE_FILE, plot_frontier
from stc_lab.report.tables import format_accuracy, format_count, result_console
from stc_lab.results.axes import Cost
from stc_lab.results.sweep import Sweep, read_sweep, write_pareto


def make_frontier(
    folders: Path | Sequence[Path],
    console: Console | None = None,
    out: Path | None = None,
    settings: ReportSettings | None = None,
) -> Sweep:
    """Write ``pareto.{csv,json,png,md}`` and ``report.html`` for the finished runs below ``folders``, and print them.

    The files go to ``out``, which may be left away for a single folder. Without any finished run only the reasons are
    printed. Raises ``ValueError`` for a folder that does not exist and for an unknown cost or baseline.
    """
    console, settings = console or result_console(), settings or ReportSettings()
    folders = [folders] if isinstance(folders, Path) else list(folders)
    out = out or folders[0]
    sweep = read_sweep(folders, settings.cost)
    if len(sweep.points):
        out.mkdir(parents=True, exist_ok=True)
        files = _write(sweep, out, settings)
        console.print(_table(sweep.points, sweep.cost))
        console.print(f"{', '.join(file.name for file in files)} in {out}", highlight=False, soft_wrap=True)
        if settings.wandb:
            from stc_lab.report.tracking import publish

            said = publish(folders, out, settings.cost, settings.project, list(sweep.runs.values()))
            console.print(said, highlight=False, soft_wrap=True)
    for word, reasons in (("left out", sweep.left_out), ("refused", sweep.refused)):
        for run, reason in reasons.items():
            console.print(f"{word}: {run}: {reason}", highlight=False, soft_wrap=True, markup=False)
    return sweep


def _write(sweep: Sweep, out: Path, settings: ReportSettings) -> list[Path]:
    files = write_pareto(sweep, out)
    plot_frontier(sweep.points, out / PICTURE_FILE, sweep.cost)
    files.append(out / PICTURE_FILE)
    if settings.page:
        # plotly is only loaded where a page is made
        from stc_lab.report.baselines import paired_section
        from stc_lab.report.markdown import write_markdown
        from stc_lab.report.page import write_page

        paired = paired_section(sweep, settings.baseline)
        files += [write_page(sweep, out, settings, paired), write_markdown(sweep, out, paired)]
    return files


def _table(points: pd.DataFrame, cost: Cost) -> Table:
    title = f"runs; * : not dominated in accuracy and {cost.name}"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("cacher + pruner", overflow="fold")
    for name in ("tokens", "read", "accuracy, 95 % interval", "frame ms", "TTFT ms", "FLOPs/frame"):
        table.add_column(name, justify="right", no_wrap=True)
    several = points["benchmark"].nunique() > 1
    for _, point in points.iterrows():
        label = f"{point['label']} [{point['benchmark']}]" if several else point["label"]
        table.add_row("*" if point["is_non_dominated"] else "", escape(label), *_numbers(point))
    return table


def _numbers(point: pd.Series) -> list[str]:
    return [
        _cell(point["achieved_tokens"], "{:.0f}".format),
        _cell(point["tokens_read"], "{:.0f}".format),
        _cell(point["accuracy"], lambda value: format_accuracy(value, point["accuracy_low"], point["accuracy_high"])),
        _cell(point["latency_ms"], "{:.1f}".format),
        _cell(point["ttft_ms"], "{:.1f}".format),
        _cell(point["flops_per_frame"], format_count),
    ]


def _cell(value: float | None, show: Callable[[float], str]) -> str:
    return "-" if pd.isna(value) else show(value)

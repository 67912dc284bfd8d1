"""From a sweep folder to files, picture and table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from stc_lab.results.frontier_plot import plot_frontier
from stc_lab.results.pareto import Sweep, read_sweep, write_pareto
from stc_lab.results.table import format_accuracy, format_count
from stc_lab.results.terminal import result_console


def make_frontier(sweep_dir: Path, console: Console | None = None) -> Sweep:
    """Write ``pareto.{csv,json,png}`` for the finished runs below ``sweep_dir`` and print them.

    Without any finished run only the reasons are printed.
    """
    console = console or result_console()
    sweep = read_sweep(sweep_dir)
    if len(sweep.points):
        files = write_pareto(sweep, sweep_dir)
        plot_frontier(sweep.points, sweep_dir / "pareto.png")
        console.print(_table(sweep.points))
        names = ", ".join([*(file.name for file in files), "pareto.png"])
        console.print(f"{names} in {sweep_dir}", highlight=False, soft_wrap=True)
    for run, reason in sweep.left_out.items():
        console.print(f"left out: {run}: {reason}", highlight=False, soft_wrap=True, markup=False)
    return sweep


def _table(points: pd.DataFrame) -> Table:
    table = Table(title="runs of the sweep; * : no other run is both as accurate and as fast", title_justify="left")
    table.add_column("")
    table.add_column("cacher + pruner", overflow="fold")
    for name in ("tokens", "accuracy, 95 % interval", "frame ms", "TTFT ms", "FLOPs/frame"):
        table.add_column(name, justify="right", no_wrap=True)
    for _, point in points.iterrows():
        table.add_row("*" if point["is_non_dominated"] else "", point["label"], *_numbers(point))
    return table


def _numbers(point: pd.Series) -> list[str]:
    return [
        _cell(point["achieved_tokens"], "{:.0f}".format),
        _cell(point["accuracy"], lambda value: format_accuracy(value, point["accuracy_low"], point["accuracy_high"])),
        _cell(point["latency_ms"], "{:.1f}".format),
        _cell(point["ttft_ms"], "{:.1f}".format),
        _cell(point["flops_per_frame"], format_count),
    ]


def _cell(value: float | None, show: Callable[[float], str]) -> str:
    return "-" if pd.isna(value) else show(value)

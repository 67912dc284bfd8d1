"""The picture of a frontier: accuracy over cost, a panel per benchmark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stc_lab.results.axes import Cost

PICTURE_FILE = "pareto.png"


# Okabe-Ito: distinguishable with colour vision deficiencies and in print.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
TRIVIAL_COLORS = ("#8c8c8c", "#b07d56", "#7d8ca3", "#a8a06a")
UNCOMPRESSED_COLOR = "#555555"
PANEL_SIZE = (9, 5.6)


def plot_frontier(points: pd.DataFrame, path: Path, cost: Cost) -> None:
    """Draw ``points`` into a PNG, one panel per benchmark.

    One line per method over its budgets with the 95 % interval of the accuracy and, for a time, its middle half; the
    uncompressed run as a star; trivial baselines dashed; a ring around every point that no other beats, and a step
    line through them. Points without scored questions or without a value of the cost are not drawn.
    """
    drawn = points.dropna(subset=["accuracy", cost.column])
    names = sorted(drawn["benchmark"].unique()) or [None]
    figure = Figure(figsize=(PANEL_SIZE[0], PANEL_SIZE[1] * len(names)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(len(names), squeeze=False)[:, 0], names, strict=True):
        _draw_panel(axes, drawn[drawn["benchmark"] == name], cost)
    figure.savefig(path)


def _draw_panel(axes: Axes, points: pd.DataFrame, cost: Cost) -> None:
    _draw_frontier(axes, points[points["is_non_dominated"]], cost)
    # Methods in colours, baselines in muted ones, each with a marker of its own: readable in grey, too.
    for is_trivial, lines in points[~points["is_uncompressed"]].groupby("is_trivial"):
        for number, (label, line) in enumerate(lines.groupby("label", sort=True)):
            _draw_line(axes, line.sort_values(["achieved_tokens", "tokens_read"]), cost, label, number, is_trivial)
    for _, point in points[points["is_uncompressed"]].iterrows():
        _draw_uncompressed(axes, point, cost)
    _dress(axes, points, cost)


def _draw_line(axes: Axes, line: pd.DataFrame, cost: Cost, label: str, number: int, is_trivial: bool) -> None:
    colors = TRIVIAL_COLORS if is_trivial else COLORS
    color, marker = colors[number % len(colors)], MARKERS[(number + number // len(colors)) % len(MARKERS)]
    axes.errorbar(
        line[cost.column], 100 * line["accuracy"], yerr=_error_bars(line), xerr=_spread(line, cost), label=label,
        color=color, marker=marker, markersize=6, linewidth=1.6, elinewidth=0.8, capsize=2.5,
        linestyle="--" if is_trivial else "-",
    )  # fmt: skip
    budget = moving_budget(line)
    for _, point in line.dropna(subset=[budget]).iterrows():
        axes.annotate(
            f"{point[budget]:.0f}", (point[cost.column], 100 * point["accuracy"]),
            xytext=(5, 5), textcoords="offset points", fontsize=8, color=color,
        )  # fmt: skip


def _draw_uncompressed(axes: Axes, point: pd.Series, cost: Cost) -> None:
    row = point.to_frame().T
    axes.errorbar(
        [point[cost.column]], [100 * point["accuracy"]], yerr=_error_bars(row), xerr=_spread(row, cost),
        label=f"uncompressed ({point['achieved_tokens']:.0f} tokens)", color=UNCOMPRESSED_COLOR,
        marker="*", markersize=14, linestyle="none", elinewidth=0.8, capsize=2.5,
    )  # fmt: skip
    axes.axhline(100 * point["accuracy"], color=UNCOMPRESSED_COLOR, linewidth=0.8, linestyle=":")


def _draw_frontier(axes: Axes, front: pd.DataFrame, cost: Cost) -> None:
    front = front.sort_values(cost.column)
    accuracy = 100 * front["accuracy"]
    axes.step(front[cost.column], accuracy, where="post", color="0.75", linewidth=5, alpha=0.6, zorder=0)
    axes.scatter(
        front[cost.column], accuracy, s=150, facecolors="none", edgecolors="0.25", linewidths=1.2, zorder=4,
        label="not dominated",
    )  # fmt: skip


def _error_bars(points: pd.DataFrame) -> np.ndarray:
    return 100 * bars(points["accuracy"], points["accuracy_low"], points["accuracy_high"])


def _spread(points: pd.DataFrame, cost: Cost) -> np.ndarray | None:
    return bars(points[cost.column], *(points[name] for name in cost.spread)) if cost.spread else None


def moving_budget(line: pd.DataFrame) -> str:
    """The column that is written beside the points of a line: tokens per frame, or tokens read where those move."""
    moves = line["memory_settings"].nunique() > 1 and line["tokens_read"].notna().any()
    return "tokens_read" if moves else "achieved_tokens"


def bars(value: pd.Series, low: pd.Series, high: pd.Series) -> np.ndarray:
    """Lengths [2, N] of error bars below and above; none where an end is unknown or on the wrong side."""
    value, low, high = (series.astype(float).to_numpy() for series in (value, low, high))
    return np.nan_to_num(np.clip(np.stack([value - low, high - value]), 0, None))


def _dress(axes: Axes, points: pd.DataFrame, cost: Cost) -> None:
    num_questions = sorted(points["num_questions"].unique()) if len(points) else []
    questions = f"{num_questions[0]}" if len(num_questions) == 1 else "different numbers of"
    name = next(iter(points["benchmark"]), "no scored runs")
    questions = "" if "questions" in name else f", {questions} questions"
    axes.set_title(f"{name}: accuracy against {cost.name}{questions}", fontsize=13)
    axes.set_xlabel(cost.label + ("; bars: middle half" if cost.spread else ""), fontsize=12)
    axes.set_ylabel("accuracy (%), bars: 95 % interval", fontsize=12)
    axes.tick_params(labelsize=11)
    axes.grid(True, color="0.9")
    axes.set_axisbelow(True)
    axes.margins(x=0.08)
    axes.set_xlim(left=0)
    axes.legend(title="cacher + pruner; numbers: tokens per frame, or read", fontsize=10, title_fontsize=9, loc="best")

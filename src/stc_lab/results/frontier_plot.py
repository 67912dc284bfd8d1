"""The picture of a multirun: accuracy against time per frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe-Ito: distinguishable with colour vision deficiencies and in print.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
UNCOMPRESSED_COLOR = "#555555"


def plot_frontier(points: pd.DataFrame, path: Path) -> None:
    """Draw ``points`` (see :func:`stc_lab.results.pareto.read_sweep`) into a PNG.

    One line per method over its budgets with the 95 % interval of the accuracy; the uncompressed run as a star;
    a ring around every point that no other beats, and a step line through them. Points without scored
    questions or without timed frames are not drawn.
    """
    drawn = points.dropna(subset=["accuracy", "latency_ms"])
    figure = Figure(figsize=(9, 5.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw_frontier(axes, drawn[drawn["is_non_dominated"]])
    methods = drawn[~drawn["is_uncompressed"]]
    for number, (label, line) in enumerate(methods.groupby("label", sort=True)):
        _draw_line(axes, line.sort_values("achieved_tokens"), label, number)
    for _, point in drawn[drawn["is_uncompressed"]].iterrows():
        _draw_uncompressed(axes, point)
    _dress(axes, drawn)
    figure.savefig(path)


def _draw_line(axes: Axes, line: pd.DataFrame, label: str, number: int) -> None:
    color, marker = COLORS[number % len(COLORS)], MARKERS[(number + number // len(COLORS)) % len(MARKERS)]
    axes.errorbar(
        line["latency_ms"], 100 * line["accuracy"], yerr=_error_bars(line), label=label,
        color=color, marker=marker, markersize=6, linewidth=1.6, elinewidth=0.8, capsize=2.5,
    )  # fmt: skip
    for _, point in line.iterrows():
        axes.annotate(
            f"{point['achieved_tokens']:.0f}", (point["latency_ms"], 100 * point["accuracy"]),
            xytext=(5, 5), textcoords="offset points", fontsize=8, color=color,
        )  # fmt: skip


def _draw_uncompressed(axes: Axes, point: pd.Series) -> None:
    axes.errorbar(
        [point["latency_ms"]], [100 * point["accuracy"]], yerr=_error_bars(point.to_frame().T),
        label=f"uncompressed ({point['achieved_tokens']:.0f} tokens)", color=UNCOMPRESSED_COLOR,
        marker="*", markersize=14, linestyle="none", elinewidth=0.8, capsize=2.5,
    )  # fmt: skip
    axes.axhline(100 * point["accuracy"], color=UNCOMPRESSED_COLOR, linewidth=0.8, linestyle=":")


def _draw_frontier(axes: Axes, front: pd.DataFrame) -> None:
    front = front.sort_values("latency_ms")
    accuracy = 100 * front["accuracy"]
    axes.step(front["latency_ms"], accuracy, where="post", color="0.75", linewidth=5, alpha=0.6, zorder=0)
    axes.scatter(
        front["latency_ms"], accuracy, s=150, facecolors="none", edgecolors="0.25", linewidths=1.2, zorder=4,
        label="not dominated",
    )  # fmt: skip


def _error_bars(points: pd.DataFrame) -> np.ndarray:
    accuracy = points["accuracy"].astype(float)
    low = accuracy - points["accuracy_low"].astype(float)
    high = points["accuracy_high"].astype(float) - accuracy
    return 100 * np.clip(np.stack([low, high]), 0, None)


def _dress(axes: Axes, points: pd.DataFrame) -> None:
    num_questions = sorted(points["num_questions"].unique()) if len(points) else []
    questions = f"{num_questions[0]}" if len(num_questions) == 1 else "different numbers of"
    datasets = ", ".join(sorted(points["dataset"].unique()))
    axes.set_title(f"{datasets}: accuracy against time per frame, {questions} questions", fontsize=13)
    axes.set_xlabel("mean time per frame, preprocess to prefill (ms)", fontsize=12)
    axes.set_ylabel("accuracy (%), bars: 95 % interval", fontsize=12)
    axes.tick_params(labelsize=11)
    axes.grid(True, color="0.9")
    axes.set_axisbelow(True)
    axes.margins(x=0.08)
    axes.set_xlim(left=0)
    axes.legend(title="cacher + pruner; numbers: tokens per frame", fontsize=10, title_fontsize=9, loc="best")

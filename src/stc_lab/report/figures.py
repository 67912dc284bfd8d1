"""Figures of the page as plotly objects: frontier, tasks, stages. Colours of paper and text are set in the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from stc_lab.report.frontier import bars, moving_budget
from stc_lab.report.sections import unique_names, value_text
from stc_lab.results.axes import COSTS, Cost
from stc_lab.results.runs import Run
from stc_lab.results.sweep import non_dominated
from stc_lab.types import FRAME_STAGES, QUESTION_STAGES

# Readable on white and on near-black; the trivial baselines are muted.
COLORS = ("#3b87d0", "#e07a2f", "#2fa57c", "#cf7fb3", "#d0a215", "#56b4e9", "#9c86dc", "#c0644a")
TRIVIAL_COLORS = ("#8f8f8f", "#b18a63", "#8697ad", "#a39c6b")
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")
NEUTRAL = "#8a8a8a"
HEAT = ((0.0, "#f6ded4"), (0.5, "#f4f4f2"), (1.0, "#63aef0"))  # light enough for dark figures in both themes
ROW_HEIGHT = 24
LEGEND_BELOW = {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "traceorder": "normal"}


def frontier_figure(points: pd.DataFrame, cost: Cost, hover: Mapping[str, str]) -> go.Figure:
    """Accuracy against ``cost`` for the points of one benchmark; ``hover`` holds the text of each run.

    Every point carries its run as ``customdata``, so that the page can filter; what is always drawn (uncompressed,
    trivial baselines) is marked by ``meta.always``.
    """
    drawn = points.dropna(subset=["accuracy", cost.column])
    figure = go.Figure()
    _add_front(figure, drawn[non_dominated(drawn["accuracy"], drawn[cost.column])], cost)
    # The front lies below the lines; a point of it is outlined, not covered.
    lines = drawn[~drawn["is_uncompressed"]]
    for is_trivial, kind in lines.groupby("is_trivial"):
        for number, (label, line) in enumerate(kind.groupby("label", sort=True)):
            _add_line(
                figure, line.sort_values(["achieved_tokens", "tokens_read"]), cost, hover, label, number, is_trivial
            )
    _add_uncompressed(figure, drawn[drawn["is_uncompressed"]], cost, hover)
    figure.update_layout(
        xaxis={"title": cost.label, "rangemode": "tozero"}, yaxis={"title": "accuracy (%)"}, hovermode="closest",
        margin={"l": 60, "r": 20, "t": 20, "b": 130}, legend=LEGEND_BELOW, height=560,
    )  # fmt: skip
    return figure


def task_figure(points: pd.DataFrame, runs: Mapping[str, Run]) -> go.Figure | None:
    """Accuracy per task and run as a heat map; ``None`` when the questions have no tasks."""
    tasks = sorted({task for name in points["run"] for task in runs[name].summary.get("by_task", {})})
    if not tasks:
        return None
    cells = [[runs[name].summary["by_task"].get(task) or {} for task in tasks] for name in points["run"]]
    accuracy = [[_percent(cell.get("accuracy")) for cell in row] for row in cells]
    heat = go.Heatmap(
        z=accuracy, x=[escape(task) for task in tasks], y=_row_names(points),
        customdata=[[_task_text(cell) for cell in row] for row in cells],
        texttemplate="%{z:.0f}", hovertemplate="%{y}<br>%{x}: %{customdata}<extra></extra>", zmin=0, zmax=100,
        colorscale=HEAT, textfont={"color": "#14181c"}, xgap=1, ygap=1, colorbar={"title": "%", "thickness": 10},
    )  # fmt: skip
    figure = go.Figure(heat)
    figure.update_layout(_rows_layout(len(points), 110), xaxis={"tickangle": -40})
    return figure


def stage_figures(points: pd.DataFrame, runs: Mapping[str, Run]) -> Iterator[tuple[str, go.Figure]]:
    """Mean time per stage as stacked bars: ``frame`` and ``question``, where the runs have such stages."""
    for name, stages in (("frame", FRAME_STAGES), ("question", QUESTION_STAGES)):
        figure = _stage_figure(points, runs, stages)
        if figure.data:
            figure.update_layout(xaxis={"title": f"mean time per {name} (ms)"})
            yield name, figure


def all_frontiers(points: pd.DataFrame, hover: Mapping[str, str]) -> dict[str, go.Figure]:
    """The frontier over every cost that at least one point of the benchmark has, by name of the cost."""
    known = [cost for cost in COSTS.values() if points[cost.column].notna().any() and points["accuracy"].notna().any()]
    return {cost.name: frontier_figure(points, cost, hover) for cost in known}


def _add_front(figure: go.Figure, front: pd.DataFrame, cost: Cost) -> None:
    front = front.sort_values(cost.column)
    x, y = front[cost.column].tolist(), (100 * front["accuracy"]).tolist()
    figure.add_trace(go.Scatter(
        x=x, y=y, name="not dominated", mode="lines+markers",
        line={"shape": "hv", "width": 6, "color": "rgba(154, 154, 154, 0.4)"},
        marker={"symbol": "circle-open", "size": 18, "color": NEUTRAL, "line": {"width": 1.5}}, hoverinfo="skip",
        meta={"always": True},
    ))  # fmt: skip


def _add_line(
    figure: go.Figure, line: pd.DataFrame, cost: Cost, hover: Mapping[str, str], label: str, number: int,
    is_trivial: bool,
) -> None:  # fmt: skip
    colors = TRIVIAL_COLORS if is_trivial else COLORS
    color = colors[number % len(colors)]
    figure.add_trace(go.Scatter(
        **_places(line, cost, hover), name=escape(label), mode="lines+markers+text",
        text=[value_text(value, "{:.0f}") for value in line[moving_budget(line)]], textposition="top right",
        textfont={"size": 10, "color": color}, line={"color": color, "dash": "dot" if is_trivial else "solid"},
        marker={"size": 8, "symbol": SYMBOLS[(number + number // len(colors)) % len(SYMBOLS)]},
        meta={"always": bool(is_trivial)},
    ))  # fmt: skip


def _add_uncompressed(figure: go.Figure, points: pd.DataFrame, cost: Cost, hover: Mapping[str, str]) -> None:
    if points.empty:
        return
    figure.add_trace(go.Scatter(
        **_places(points, cost, hover), name="uncompressed", mode="markers",
        marker={"symbol": "star", "size": 15, "color": NEUTRAL}, meta={"always": True},
    ))  # fmt: skip
    for accuracy in 100 * points["accuracy"]:
        figure.add_hline(y=accuracy, line={"dash": "dot", "width": 1, "color": NEUTRAL})


def _places(points: pd.DataFrame, cost: Cost, hover: Mapping[str, str]) -> dict[str, Any]:
    low, high = 100 * bars(points["accuracy"], points["accuracy_low"], points["accuracy_high"])
    places: dict[str, Any] = {
        "x": points[cost.column].tolist(),
        "y": (100 * points["accuracy"]).tolist(),
        "customdata": points["run"].tolist(),
        "hovertext": [hover[run] for run in points["run"]],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "error_y": {"type": "data", "array": high.tolist(), "arrayminus": low.tolist(), "thickness": 1, "width": 3},
    }
    if cost.spread:
        near, far = bars(points[cost.column], *(points[name] for name in cost.spread))
        sides = {"array": far.tolist(), "arrayminus": near.tolist()}
        places["error_x"] = {"type": "data", **sides, "thickness": 1, "width": 3}
    return places


def _stage_figure(points: pd.DataFrame, runs: Mapping[str, Run], stages: tuple[str, ...]) -> go.Figure:
    times = [runs[name].summary.get("latency_ms") or {} for name in points["run"]]
    figure = go.Figure()
    for stage in stages:
        values = [(row.get(stage) or {}).get("mean") for row in times]
        if any(value is not None for value in values):
            color = NEUTRAL if stage == "decode" else COLORS[stages.index(stage) % len(COLORS)]
            figure.add_trace(go.Bar(
                x=values, y=_row_names(points), name=stage, orientation="h", marker={"color": color},
                hovertemplate=f"%{{y}}<br>{stage}: %{{x:.2f}} ms<extra></extra>",
            ))  # fmt: skip
    figure.update_layout(_rows_layout(len(points), 110), barmode="stack", legend=LEGEND_BELOW)
    return figure


def _rows_layout(num_rows: int, extra: int) -> dict[str, Any]:
    yaxis = {"autorange": "reversed", "automargin": True, "type": "category"}
    margin = {"l": 20, "r": 20, "t": 30, "b": extra}
    return {"yaxis": yaxis, "height": ROW_HEIGHT * num_rows + extra + 30, "margin": margin}


def _row_names(points: pd.DataFrame) -> list[str]:
    return [escape(name) for name in unique_names(points).values()]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _task_text(cell: Mapping[str, Any]) -> str:
    if cell.get("accuracy") is None:
        return "not asked"
    low, high = (100 * end for end in cell["accuracy_ci95"])
    return f"{100 * cell['accuracy']:.1f} % [{low:.1f}, {high:.1f}], {cell['num_scored']} questions"

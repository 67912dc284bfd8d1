"""``report.html``: one file with everything in it, readable without a network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, StrictUndefined
from plotly.offline import get_plotlyjs

from stc_lab.config.schema import ReportSettings
from stc_lab.report.baselines import missing_baselines
from stc_lab.report.figures import ROW_HEIGHT, all_frontiers, stage_figures, task_figure
from stc_lab.report.paper import paper_table
from stc_lab.report.pictures import token_maps
from stc_lab.report.points import columns, hypervolume_rows, search_texts, table_rows
from stc_lab.report.provenance import command_of, common_rows, environment_rows
from stc_lab.report.text import hover_text, unique_names
from stc_lab.results.axes import COSTS
from stc_lab.results.pareto import Sweep
from stc_lab.results.records import write_text_atomically

PAGE_FILE = "report.html"


def write_page(sweep: Sweep, out: Path, settings: ReportSettings, paired: Mapping[str, Any]) -> Path:
    """Write the page of a sweep with at least one point; returns its path."""
    path = out / PAGE_FILE
    write_text_atomically(path, render(sweep, settings, paired))
    return path


def render(sweep: Sweep, settings: ReportSettings, paired: Mapping[str, Any]) -> str:
    """The page as HTML; ``paired``: of :func:`stc_lab.report.paired.paired_section`."""
    points = sweep.points
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(_asset("page.html.j2"))
    return template.render(
        **_heading(sweep),
        css=_asset("report.css"),
        js=_asset("report.js"),
        plotly_js=get_plotlyjs(),
        notes=missing_baselines(points),
        benchmarks=sorted(points["benchmark"].unique()),
        costs=[cost for cost in COSTS.values() if points[cost.column].notna().any()],
        chosen_cost=sweep.cost.name,
        hypervolumes=hypervolume_rows(sweep),
        columns=columns(),
        rows=table_rows(sweep),
        paired=paired,
        paper=paper_table(points),
        pictures=token_maps(list(sweep.runs.values()), settings.token_maps),
        left_out=sweep.left_out,
        **_provenance(sweep),
        searchable=_embedded(search_texts(sweep)),
        figures=_embedded(_figures(sweep)),
    )


def _heading(sweep: Sweep) -> dict[str, str]:
    points = sweep.points
    names = ", ".join(sorted(points["benchmark"].unique()))
    methods = {run.summary.get("ci_method") for run in sweep.runs.values()} - {None}
    left_out = f", {len(sweep.left_out)} left out" if sweep.left_out else ""
    return {
        "title": f"Accuracy against cost: {names}",
        "subtitle": f"{len(points)} runs of {points['label'].nunique()} methods{left_out}; drawn by stc_lab",
        "ci_method": f" ({', '.join(sorted(methods)).replace('_', ' ')})" if methods else "",
    }


def _figures(sweep: Sweep) -> dict[str, Any]:
    """Figures by benchmark as plain data: ``frontier`` (by cost), ``tasks``, ``stages_frame``, ``stages_question``."""
    hover = {name: hover_text(point, sweep.runs[name]) for name, point in _by_run(sweep.points)}
    made: dict[str, Any] = {"frontier": {}, "tasks": {}, "stages_frame": {}, "stages_question": {}, "rows": {}}
    for benchmark, points in sweep.points.groupby("benchmark"):
        made["rows"][benchmark] = points["run"].tolist()
        made["frontier"][benchmark] = {name: _plain(f) for name, f in all_frontiers(points, hover).items()}
        tasks = task_figure(points, sweep.runs)
        if tasks is not None:
            made["tasks"][benchmark] = _plain(tasks)
        for name, figure in stage_figures(points, sweep.runs):
            made[f"stages_{name}"][benchmark] = _plain(figure)
    return {**made, "row_height": ROW_HEIGHT}


def _provenance(sweep: Sweep) -> dict[str, Any]:
    tables = {name: environment_rows(run) for name, run in sweep.runs.items()}
    common = common_rows([table for table in tables.values() if table])
    names = unique_names(sweep.points)
    points = [
        {
            "run": name, "name": names[name], "benchmark": point["benchmark"],
            "folder": str(sweep.runs[name].folder), "command": command_of(sweep.runs[name]),
            "environment": {key: value for key, value in tables[name].items() if key not in common},
            "settings": sweep.runs[name].settings,
        }
        for name, point in _by_run(sweep.points)
    ]  # fmt: skip
    return {"environment": common, "points": points}


def _by_run(points: pd.DataFrame) -> list[tuple[str, pd.Series]]:
    return [(point["run"], point) for _, point in points.iterrows()]


def _plain(figure: go.Figure) -> dict[str, Any]:
    """The figure without plotly's default template, whose colours belong to one theme."""
    figure.layout.template = None
    return json.loads(figure.to_json())


def _embedded(content: Mapping[str, Any]) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")


def _asset(name: str) -> str:
    return files("stc_lab.report").joinpath("assets", name).read_text(encoding="utf-8")

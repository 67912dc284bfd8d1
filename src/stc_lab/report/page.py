"""``report.html``: one file with everything in it, readable without a network."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, StrictUndefined
from omegaconf import OmegaConf
from plotly.offline import get_plotlyjs

from stc_lab.config.schema import ReportSettings
from stc_lab.report.baselines import missing_baselines
from stc_lab.report.figures import ROW_HEIGHT, all_frontiers, stage_figures, task_figure
from stc_lab.report.sections import (
    columns,
    hover_text,
    hypervolume_rows,
    paper_table,
    search_texts,
    table_rows,
    unique_names,
)
from stc_lab.results.axes import COSTS
from stc_lab.results.records import BASELINE_DIR, write_text_atomically
from stc_lab.results.runs import Run
from stc_lab.results.sweep import Sweep

PAGE_FILE = "report.html"


def write_page(sweep: Sweep, out: Path, settings: ReportSettings, paired: Mapping[str, Any]) -> Path:
    """Write the page of a sweep with at least one point; returns its path."""
    path = out / PAGE_FILE
    write_text_atomically(path, render(sweep, settings, paired))
    return path


def render(sweep: Sweep, settings: ReportSettings, paired: Mapping[str, Any]) -> str:
    """The page as HTML; ``paired``: of :func:`paired_section`."""
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
        refused=sweep.refused,
        **_provenance(sweep),
        searchable=_embedded(search_texts(sweep)),
        figures=_embedded(_figures(sweep)),
    )


def _heading(sweep: Sweep) -> dict[str, str]:
    points = sweep.points
    names = ", ".join(sorted(points["benchmark"].unique()))
    methods = {run.summary.get("ci_method") for run in sweep.runs.values()} - {None}
    left_out = f", {len(sweep.left_out)} left out" if sweep.left_out else ""
    left_out += f", {len(sweep.refused)} refused" if sweep.refused else ""
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
    # "</script>" inside a text would end the element.
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")


def _asset(name: str) -> str:
    return files("stc_lab.report").joinpath("assets", name).read_text(encoding="utf-8")


MAPS_FOLDER = "token_maps"
KINDS = {".png": "image/png", ".gif": "image/gif", ".mp4": "video/mp4"}
LARGEST_BYTES = 4 * 1024**2


@dataclass(frozen=True)
class Picture:
    """``data``: a ``data:`` address; ``is_video`` tells a film from a picture."""

    run: str
    title: str
    data: str
    is_video: bool


def token_maps(runs: Sequence[Run], limit: int) -> list[Picture]:
    """Up to ``limit`` pictures, in turn from each run, so that few of them show many methods.

    Files above ``LARGEST_BYTES`` are left out: a page that nobody can open shows nothing.
    """
    # One picture of each run, then a second of each, and so on.
    queues = [list(_map_files(run)) for run in runs]
    turns = [(run, queue[turn]) for turn in range(limit) for run, queue in zip(runs, queues, strict=True)
             if turn < len(queue)]  # fmt: skip
    return [_picture(run, path) for run, path in turns[:limit]]


def _map_files(run: Run) -> Iterator[Path]:
    """One file per map: a strip (png) is preferred to the film of the same name."""
    folder, seen = run.folder / MAPS_FOLDER, set()
    for suffix in KINDS:
        for path in sorted(folder.rglob(f"*{suffix}")) if folder.is_dir() else ():
            if path.stem not in seen and path.stat().st_size <= LARGEST_BYTES:
                seen.add(path.stem)
                yield path


def _picture(run: Run, path: Path) -> Picture:
    kind = KINDS[path.suffix]
    data = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    return Picture(run.name, path.stem, data, kind.startswith("video"))


ENVIRONMENT_FILE = "environment.json"
OVERRIDES_FILE = ".hydra/overrides.yaml"
NO_METHODS = ("cacher=none", "pruner=none")
LEFT_AWAY = ("report.", "baseline=", "objective=", "hydra.")
"""Overrides that say what is made of a run, not what it is."""


def command_of(run: Run) -> str | None:
    """The command that runs this point alone; ``None`` for a folder that does not tell (imported predictions)."""
    path = _origin(run) / OVERRIDES_FILE
    if not path.is_file():
        return environment_of(run).get("command")
    overrides = [text for text in OmegaConf.load(path) if not text.lstrip("+~").startswith(LEFT_AWAY)]
    # The uncompressed run beside another has the overrides of that one, but for its methods.
    if _is_baseline(run):
        dropped = ("cacher=", "cacher.", "pruner=", "pruner.")
        overrides = [text for text in overrides if not text.lstrip("+~").startswith(dropped)] + list(NO_METHODS)
    return shlex.join(["python", "-m", "stc_lab", *overrides])


def environment_of(run: Run) -> dict[str, Any]:
    """Content of ``environment.json``; empty where there is none."""
    path = _origin(run) / ENVIRONMENT_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def environment_rows(run: Run) -> dict[str, str]:
    """The environment in a few readable lines."""
    environment, summary = environment_of(run), run.summary
    if not environment:
        return {}
    git = environment.get("git") or {}
    torch = environment.get("torch") or {}
    return {
        "device": ", ".join(str(summary[key]) for key in ("device_name", "precision") if summary.get(key)),
        "threads": f"{torch.get('num_threads')} of torch, {environment['cpu']['num_usable_cores']} usable cores",
        "attention": torch.get("attention", {}).get("implementation", "-"),
        "stc_lab": environment["stc_lab"] + _revision(git),
        "python": f"{environment['python']} on {environment['platform']}",
        "packages": ", ".join(f"{name} {number}" for name, number in environment["packages"].items() if number),
    }


def common_rows(tables: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Lines that are equal in all tables."""
    first = tables[0] if tables else {}
    return {key: value for key, value in first.items() if all(table.get(key) == value for table in tables)}


def _revision(git: Mapping[str, Any]) -> str:
    if not git:
        return ""
    return f", commit {git['commit'][:12]}" + (" with local changes" if git.get("modified") else "")


def _is_baseline(run: Run) -> bool:
    return run.folder.name == BASELINE_DIR and not (run.folder / OVERRIDES_FILE).is_file()


def _origin(run: Run) -> Path:
    """The folder that holds command and environment: for the uncompressed run beside another, that of the other."""
    return run.folder.parent if _is_baseline(run) else run.folder

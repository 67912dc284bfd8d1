"""The frontier as a W&B report: scatter panels over the runs that ``logger=wandb`` has made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stc_lab.loggers import wandb_mode
from stc_lab.results.records import write_text_atomically

SPEC_FILE = "wandb_report.json"
ACCURACY = "axis/accuracy"
COSTS = {
    "latency": "axis/frame_ms",
    "flops": "axis/flops_per_frame",
    "tokens": "axis/tokens_per_frame",
    "memory": "axis/kv_mib",
    "ttft": "axis/ttft_ms",
}
KNOBS = ("knob/cacher_name", "knob/pruner_name", "knob/pruner_num_tokens")
DEFAULT_PROJECT = "stc_lab"
UNKNOWN_ENTITY = "ENTITY"
"""Stands for the user's W&B name in a report that is made without a connection."""


def publish(folders: Sequence[Path], out: Path, cost: str, project: str = DEFAULT_PROJECT) -> str:
    """Save the report on the server when there is one, and its description in ``out`` in any case; returns what to say.

    ``project``: that of the runs, as ``NAME`` or ``ENTITY/NAME``.
    Raises ``ValueError`` when wandb-workspaces is not installed.
    """
    is_online = wandb_mode("auto") == "online"
    entity, _, name = project.rpartition("/")
    report = build_report(cost, name, entity or None, [folder.name for folder in folders], is_online)
    write_text_atomically(out / SPEC_FILE, json.dumps(spec_of(report), indent=2) + "\n")
    if is_online:
        return f"W&B report: {report.save().url}"
    command = f"wandb login && python -m stc_lab.report {' '.join(map(str, folders))} report.wandb=true"
    runs = " ".join(f"{folder}/**/wandb/offline-run-*" for folder in folders)
    return f"no connection to W&B: {out / SPEC_FILE} describes the report; later: wandb sync {runs}; {command}"


def build_report(
    cost: str, project: str, entity: str | None = None, names: Sequence[str] = (), is_online: bool = False
) -> Any:
    """The report as an object of wandb-workspaces: frontier, the other costs, knobs.

    Online, W&B is asked for the user's own ``entity`` where none is given.
    """
    try:
        import wandb_workspaces.reports.v2 as reports
    except ImportError as error:
        raise ValueError("report.wandb=true needs wandb-workspaces: pip install 'stc-lab[report]'") from error
    axes = [COSTS[cost], *(axis for name, axis in COSTS.items() if name != cost)]
    scatter = [
        reports.ScatterPlot(
            title=f"accuracy against {axis}", x=reports.SummaryMetric(axis), y=reports.SummaryMetric(ACCURACY)
        )
        for axis in axes
    ]
    columns = [*KNOBS, COSTS[cost], ACCURACY]
    knobs = reports.ParallelCoordinatesPlot(
        title="from settings to accuracy",
        columns=[reports.ParallelCoordinatesPlotColumn(metric=reports.SummaryMetric(name)) for name in columns],
    )
    known = {"entity": entity} if entity else {}
    # A run set that names an entity is looked up on the server while the report is written out.
    runs = reports.Runset(project=project, **(known if is_online else {"entity": ""}))
    return reports.Report(
        project=project,
        **(known if is_online else {"entity": entity or UNKNOWN_ENTITY}),
        title=f"Accuracy against {cost}" + (f": {', '.join(names)}" if names else ""),
        description="Made by python -m stc_lab.report; intervals and paired differences are in its report.html.",
        blocks=[reports.PanelGrid(runsets=[runs], panels=[*scatter, knobs])],
    )


def spec_of(report: Any) -> dict[str, Any]:
    """The report as W&B stores it."""
    return json.loads(report._to_model().model_dump_json(by_alias=True, exclude_none=True))

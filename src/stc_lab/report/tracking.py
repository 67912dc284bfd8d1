"""Tracking of runs: loggers that need no one at the keyboard, what they are given, and the frontier as a W&B report."""

from __future__ import annotations

import json
import logging
import netrc
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import urlparse

from omegaconf import DictConfig, OmegaConf

from stc_lab.config import RunSettings, build, canonical
from stc_lab.results.axes import BUDGETS, COSTS, GROUPS, axis_values
from stc_lab.results.records import RECORDS_FILE, Record, read_records, write_text_atomically

if TYPE_CHECKING:
    import wandb
    from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

    from stc_lab.results.runs import Run

log = logging.getLogger(__name__)

WANDB_SERVER = "https://api.wandb.ai"
LONGEST_START_S = 30.0
LONGEST_FINISH_S = 120.0
TABLE_COLUMNS = (
    *("stream_id", "question_id", "task", "group", "time_s", "question", "options", "answer", "prediction"),
    *("correct", "status", "reason", "text", "num_frames_seen", "ttft_ms"),
)
MOST_MAPS = 16
MEDIA_KINDS = {".png": "Image", ".gif": "Video", ".mp4": "Video"}
"""Suffixes of token maps, and the classes of W&B that show them."""
SPEC_FILE = "wandb_report.json"
ACCURACY_AXIS = "axis/accuracy"
COST_AXES = {name: f"axis/{cost.column}" for name, cost in COSTS.items()}
KNOBS = ("knob/memory_name", "knob/cacher_name", "knob/pruner_name", "knob/pruner_num_tokens")
DEFAULT_PROJECT = "stc_lab"
MEMORY_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
UNKNOWN_ENTITY = "ENTITY"
"""Stands for the user's W&B name in a report that is made without a connection."""


def csv_logger(save_dir: str | None = None) -> CSVLogger:
    """Logger that writes ``metrics.csv`` right into ``save_dir`` (``None``: the working directory)."""
    from lightning.pytorch.loggers import CSVLogger

    return CSVLogger(save_dir=save_dir or ".", name="", version="")


def wandb_logger(
    save_dir: str | None = None,
    project: str = "stc_lab",
    entity: str | None = None,
    group: str | None = None,
    tags: list | None = None,
    mode: Literal["auto", "online", "offline", "disabled"] = "auto",
) -> WandbLogger:
    """W&B logger that never prompts: ``auto`` is online with an API key at hand and offline without one.

    ``save_dir`` (``None``: the working directory) takes the local files and gives the run its name. The variable
    ``WANDB_MODE`` wins over ``auto``. A server that does not answer is not waited for: ``auto`` goes on offline, and at
    the end what is not sent after ``LONGEST_FINISH_S`` stays in the folder for ``wandb sync``. Raises ``ValueError``
    for ``online`` without a key.
    """
    from lightning.pytorch.loggers import WandbLogger

    folder = Path(save_dir or ".").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    about = {"name": folder.name, "dir": str(folder), "group": group, "tags": tags}
    about |= {"project": project, "entity": entity}
    run = _start_run(wandb_mode(mode), may_go_offline=mode == "auto", about=about)
    return WandbLogger(experiment=run)


def _start_run(mode: str, may_go_offline: bool, about: dict[str, Any]) -> wandb.Run:
    import wandb

    settings = wandb.Settings(
        init_timeout=LONGEST_START_S, finish_timeout=LONGEST_FINISH_S, finish_timeout_raises=False
    )  # fmt: skip
    try:
        return wandb.init(**about, mode=mode, settings=settings)
    except wandb.errors.CommError as error:
        if mode != "online" or not may_go_offline:
            raise
        log.warning(f"W&B does not answer, so this run is logged offline ({str(error).splitlines()[0]})")
        return wandb.init(**about, mode="offline", settings=settings)


def wandb_mode(mode: str) -> str:
    """What ``mode`` comes to in this environment: ``online``, ``offline`` or ``disabled``."""
    if mode == "auto":
        return os.environ.get("WANDB_MODE") or ("online" if has_wandb_key() else "offline")
    if mode == "online" and not has_wandb_key():
        raise ValueError("logger.mode=online: no W&B API key found; run `wandb login`, or use logger.mode=offline")
    return mode


def has_wandb_key() -> bool:
    """Whether W&B would find an API key without asking: in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", WANDB_SERVER)).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


class LogResult(Protocol):
    """Logs a summary; with ``run_dir`` also the records and pictures of that folder, where the logger takes them."""

    def __call__(self, summary: Mapping[str, Any], run_dir: Path | None = None) -> None: ...


@contextmanager
def result_logger(cfg: DictConfig) -> Iterator[LogResult]:
    """Gives a function that logs a result; afterwards the log is closed as a success, or as a failure if one escapes.

    The settings are logged at once, so that a run that fails can be found by them.
    """
    logger: Logger | None = build(cfg.logger)
    if logger is None:
        yield lambda summary, run_dir=None: None
        return
    warnings.filterwarnings("ignore", message=".*Experiment logs directory.*")  # the run folder, and meant to be
    exit_code = 1
    try:
        logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
        yield lambda summary, run_dir=None: _log(logger, cfg, summary, run_dir)
        exit_code = 0
    finally:
        # W&B's own finish comes last: it waits for the upload, no longer than LONGEST_FINISH_S.
        logger.finalize("failed" if exit_code else "success")
        if _is_wandb(logger):
            logger.experiment.finish(exit_code=exit_code)


def _is_wandb(logger: Logger) -> bool:
    from lightning.pytorch.loggers import WandbLogger

    return isinstance(logger, WandbLogger)


def scalars(summary: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """All numbers of a nested summary by path: ``latency_ms/vision/median``; pairs become ``/low`` and ``/high``."""
    flat: dict[str, float] = {}
    for key, value in summary.items():
        if isinstance(value, list) and len(value) == 2:
            value = dict(zip(("low", "high"), value, strict=True))
        if isinstance(value, Mapping):
            flat.update(scalars(value, f"{prefix}{key}/"))
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            flat[prefix + key] = value
    return flat


def _log(logger: Logger, cfg: DictConfig, summary: Mapping[str, Any], run_dir: Path | None) -> None:
    logger.log_metrics(scalars(summary), step=0)
    if _is_wandb(logger):
        fill_run(logger.experiment, cfg, summary, run_dir)


def fill_run(run: wandb.Run, cfg: DictConfig, summary: Mapping[str, Any], run_dir: Path | None) -> None:
    """Add to an open run all that a report about it can ask for."""
    import wandb

    run.summary.update({**axis_scalars(summary), **knob_scalars(cfg)})
    if run_dir is None:
        return
    records = read_records(run_dir / RECORDS_FILE)
    run.log({"records": record_table(records), **_token_maps(run_dir)})
    artifact = wandb.Artifact(f"records-{run.id}", type="records", metadata={"fingerprint": summary.get("fingerprint")})
    artifact.add_file(str(run_dir / RECORDS_FILE))
    run.log_artifact(artifact)


def axis_scalars(summary: Mapping[str, Any]) -> dict[str, float]:
    """Every number that a frontier is drawn from, and the mean time of every stage, as ``axis/NAME``.

    Those that a run lacks are left out.
    """
    stages = {f"{stage}_ms": times.get("mean") for stage, times in (summary.get("latency_ms") or {}).items()}
    values = {**axis_values(summary), **stages}
    return {f"axis/{name}": value for name, value in values.items() if value is not None}


def knob_scalars(cfg: DictConfig) -> dict[str, Any]:
    """The settings that can be swept, as ``knob/pruner_budget``: without dots, which W&B takes for nesting."""
    nested = canonical(RunSettings.of(cfg))
    knobs = {"knob/seed": cfg.seed}
    for group in GROUPS:
        for key, value in nested[group].items():
            if isinstance(value, (bool, int, float, str)):
                knobs[f"knob/{group}_{key}"] = value
    return knobs


def record_table(records: Sequence[Record]) -> wandb.Table:
    """One row per question."""
    import wandb

    rows = [[_table_cell(getattr(record, name)) for name in TABLE_COLUMNS] for record in records]
    return wandb.Table(columns=list(TABLE_COLUMNS), data=rows)


def _table_cell(value: Any) -> Any:
    return " | ".join(map(str, value)) if isinstance(value, list) else value


def _token_maps(run_dir: Path) -> dict[str, list]:
    """Pictures and films of ``token_maps/``, in alphabetical order."""
    import wandb

    files = [path for path in sorted((run_dir / "token_maps").rglob("*")) if path.suffix in MEDIA_KINDS][:MOST_MAPS]
    media: dict[str, list] = {}
    for path in files:
        made = getattr(wandb, MEDIA_KINDS[path.suffix])(str(path), caption=path.stem)
        media.setdefault(f"token_maps/{path.suffix[1:]}", []).append(made)
    return media


def publish(
    folders: Sequence[Path], out: Path, cost: str, project: str = DEFAULT_PROJECT, runs: Sequence[Run] = ()
) -> str:
    """Save the report on the server when there is one, and its description in ``out`` in any case; returns what to say.

    ``project``: that of the runs, as ``NAME`` or ``ENTITY/NAME``. ``runs``: those of the folders, coloured by memory.
    Raises ``ValueError`` when wandb-workspaces is not installed.
    """
    # The description is written in any case, so that it can be saved once there is a connection.
    is_online = wandb_mode("auto") == "online"
    entity, _, name = project.rpartition("/")
    report = build_report(
        cost, name, entity or None, [folder.name for folder in folders], is_online, memory_colors(runs)
    )
    write_text_atomically(out / SPEC_FILE, json.dumps(spec_of(report), indent=2) + "\n")
    if is_online:
        return f"W&B report: {report.save().url}"
    command = f"wandb login && python -m stc_lab.report {' '.join(map(str, folders))} report.wandb=true"
    runs = " ".join(f"{folder}/**/wandb/offline-run-*" for folder in folders)
    return f"no connection to W&B: {out / SPEC_FILE} describes the report; later: wandb sync {runs}; {command}"


def build_report(
    cost: str,
    project: str,
    entity: str | None = None,
    names: Sequence[str] = (),
    is_online: bool = False,
    colors: Mapping[str, str] | None = None,
) -> Any:
    """The report as an object of wandb-workspaces: frontier, a panel for each budget and each other cost, knobs.

    ``colors``: by id of the W&B run. Online, W&B is asked for the user's own ``entity`` where none is given.
    """
    try:
        import wandb_workspaces.reports.v2 as reports
    except ImportError as error:
        raise ValueError("report.wandb=true needs wandb-workspaces: pip install 'stc-lab[report]'") from error
    axes = [COST_AXES[name] for name in dict.fromkeys((cost, *BUDGETS, *COST_AXES))]
    scatter = [
        reports.ScatterPlot(
            title=f"accuracy against {axis}", x=reports.SummaryMetric(axis), y=reports.SummaryMetric(ACCURACY_AXIS)
        )
        for axis in axes
    ]
    columns = [*KNOBS, COST_AXES[cost], ACCURACY_AXIS]
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
        blocks=[reports.PanelGrid(runsets=[runs], panels=[*scatter, knobs], custom_run_colors=dict(colors or {}))],
    )


def memory_colors(runs: Sequence[Run]) -> dict[str, str]:
    """One colour per memory, by id of the W&B run (which W&B writes into the name of its folder in the run folder).

    Empty where all runs have the same memory: then W&B's own colours tell more.
    """
    memories = sorted({run.names["memory"] for run in runs})
    if len(memories) < 2:
        return {}
    return {
        folder.name.rpartition("-")[2]: MEMORY_COLORS[memories.index(run.names["memory"]) % len(MEMORY_COLORS)]
        for run in runs
        for folder in run.folder.glob("wandb/*run-*")
    }


def spec_of(report: Any) -> dict[str, Any]:
    """The report as W&B stores it."""
    return json.loads(report._to_model().model_dump_json(by_alias=True, exclude_none=True))

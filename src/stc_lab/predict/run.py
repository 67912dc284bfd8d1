"""A run as the command line asks for it: the point itself, the uncompressed one beside it, table and log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from stc_lab.config import build, conf_dir
from stc_lab.predict.identity import find_finished, fingerprint, run_settings
from stc_lab.predict.point import Point
from stc_lab.predict.tasks import check_unique_ids
from stc_lab.predict.trainer import check_devices
from stc_lab.report.tables import print_result, result_console
from stc_lab.report.tracking import result_logger
from stc_lab.results.records import BASELINE_DIR, read_summary

Summary = dict[str, Any]


class RunHadErrors(RuntimeError):
    """Some streams failed for another reason than their video; the results were written nevertheless."""


def run_experiment(cfg: DictConfig, run_dir: Path) -> Summary:
    """Run, or resume, the experiment ``cfg`` in ``run_dir``, print its table and return its summary.

    In a multirun an equal finished point is taken over instead of running it again. Raises ``ValueError`` on
    user mistakes, and :class:`RunHadErrors` after everything is written when streams failed because of a defect.
    """
    is_multirun = _is_multirun()
    check_devices(cfg.trainer, is_multirun)
    benchmark = build(cfg.dataset)
    streams = benchmark.streams()
    check_unique_ids(streams)
    sweep_dir = run_dir.parent if is_multirun else None
    with result_logger(cfg) as log_summary:
        point = Point(cfg, run_dir, benchmark, streams)
        summary = point.finish(sweep_dir)
        baseline = _baseline(point, sweep_dir)
        _print(point, summary, baseline)
        log_summary(summary, point.twin or run_dir)
        _check_errors(summary, run_dir)
        if baseline is not None:
            _check_errors(baseline, run_dir / BASELINE_DIR)
    return summary


def uncompressed(cfg: DictConfig) -> DictConfig:
    """The same experiment without cacher and pruner."""
    changed = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    for group in ("cacher", "pruner"):
        changed[group] = OmegaConf.load(conf_dir() / group / "none.yaml")
    changed.measure.fidelity = False  # it would compare the run with itself
    return changed


def _baseline(point: Point, sweep_dir: Path | None) -> Summary | None:
    """Summary of the uncompressed run: asked for, or in a multirun already there; ``None`` otherwise."""
    if point.cfg.cacher.name == "none" and point.cfg.pruner.name == "none":
        return None
    cfg = uncompressed(point.cfg)
    run_dir = point.run_dir / BASELINE_DIR
    if point.cfg.baseline:
        return Point(cfg, run_dir, point.benchmark, point.streams, point.backbone).finish(sweep_dir)
    if sweep_dir is None:
        return None
    twin = find_finished(sweep_dir, fingerprint(run_settings(cfg, point.streams)), run_dir)
    return read_summary(twin) if twin else None


def _print(point: Point, summary: Summary, baseline: Summary | None) -> None:
    console = result_console()
    if point.twin is not None:
        text = f"{point.run_dir.name}: equal to {point.twin.relative_to(point.run_dir.parent)}, not run again"
    else:
        print_result(console, summary, baseline)
        text = f"records.jsonl and summary.json in {point.run_dir}"
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def _check_errors(summary: Summary, run_dir: Path) -> None:
    if summary["num_errors"]:
        raise RunHadErrors(
            f"{summary['num_errors']} of {summary['num_questions']} questions failed because of errors in the program "
            f"or for lack of memory (field 'error' in {run_dir / 'records.jsonl'}); the result counts them as wrong. "
            f"Run again with retry_failed=true to ask them again"
        )


def _is_multirun() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN

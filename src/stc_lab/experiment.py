"""A run as the command line asks for it: the point itself, the uncompressed one beside it, table and log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from stc_lab.config import RunSettings
from stc_lab.predict.resume import check_unique_ids, find_finished, fingerprint_of, run_settings
from stc_lab.predict.run import Point, uncompressed
from stc_lab.predict.trainer import check_devices
from stc_lab.report.tables import print_result, result_console
from stc_lab.report.tracking import result_logger
from stc_lab.results.records import BASELINE_DIR, read_summary

Summary = dict[str, Any]


class RunHadErrors(RuntimeError):
    """Some streams failed for another reason than their video; the results were written nevertheless."""


def run_experiment(settings: RunSettings, run_dir: Path) -> Summary:
    """Run, or resume, an experiment in ``run_dir``, print its table and return its summary.

    In a multirun an equal finished point is taken over instead of running it again. Raises ``ValueError`` on
    user mistakes, and :class:`RunHadErrors` after everything is written when streams failed because of a defect.
    """
    is_multirun = _is_multirun()
    check_devices(settings.cfg.trainer, is_multirun)
    streams = settings.benchmark.streams()
    check_unique_ids(streams)
    sweep_dir = run_dir.parent if is_multirun else None
    with result_logger(settings.cfg) as log_summary:
        point = Point(settings, run_dir, streams)
        summary = point.finish(sweep_dir)
        baseline = _baseline(point, sweep_dir)
        _print(point, summary, baseline)
        log_summary(summary, point.duplicate_of or run_dir)
        # Last, so that a run with errors is printed and logged like any other.
        _check_errors(summary, run_dir)
        if baseline is not None:
            _check_errors(baseline, run_dir / BASELINE_DIR)
    return summary


def _baseline(point: Point, sweep_dir: Path | None) -> Summary | None:
    """Summary of the uncompressed run: asked for, or in a multirun already there; ``None`` otherwise."""
    if point.settings.cacher.name == "none" and point.settings.pruner.name == "none":
        return None
    settings, run_dir = uncompressed(point.settings), point.run_dir / BASELINE_DIR
    if settings.cfg.baseline:
        return Point(settings, run_dir, point.streams, point.model).finish(sweep_dir)
    if sweep_dir is None:
        return None
    # The points of a sweep share one baseline: whichever run is uncompressed serves all.
    finished = find_finished(sweep_dir, fingerprint_of(run_settings(settings, point.streams)), run_dir)
    return read_summary(finished) if finished else None


def _print(point: Point, summary: Summary, baseline: Summary | None) -> None:
    console = result_console()
    if point.duplicate_of is not None:
        text = f"{point.run_dir.name}: equal to {point.duplicate_of.relative_to(point.run_dir.parent)}, not run again"
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

"""A run as the command line asks for it: the point itself, the uncompressed one beside it, table and log."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from stc_lab.benchmarks.base import Benchmark
from stc_lab.config import build, conf_dir, resolved_accelerator, save_config
from stc_lab.config.build import settings_of, target_of
from stc_lab.config.environment import cpu_model
from stc_lab.predict.loop import StreamDataModule, StreamPredictor
from stc_lab.predict.progress import StreamProgress
from stc_lab.predict.resume import (
    RecordWriter,
    alone_with,
    check_unique_ids,
    claim_run_folder,
    find_finished,
    fingerprint_of,
    own_device,
    pending_tasks,
    run_settings,
)
from stc_lab.predict.stream import StreamTask
from stc_lab.predict.trainer import check_devices, ends_on_sigterm, make_trainer, quiet_lightning
from stc_lab.report.tables import print_result, result_console
from stc_lab.report.tracking import result_logger
from stc_lab.results.clock import Clock, encoding_summary, prompt_summary, write_clock
from stc_lab.results.records import (
    BASELINE_DIR,
    CONFIG_FILE,
    DUPLICATE_FILE,
    RECORDS_FILE,
    SUMMARY_FILE,
    Record,
    collect_records,
    read_summary,
    write_records,
    write_summary,
    write_text_atomically,
)
from stc_lab.results.summary import check_measured, summarize
from stc_lab.token_maps.drawing import TokenMaps, described
from stc_lab.types import Stream

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
        log_summary(summary, point.duplicate_of or run_dir)
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
    finished = find_finished(sweep_dir, fingerprint_of(run_settings(cfg, point.streams)), run_dir)
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


@dataclass
class Point:
    """Settings and folder of a point, and the streams it is asked about.

    ``backbone`` is a loaded backbone to be used, and then the one that was used (``None`` when nothing had to
    run, or when it was loaded by other processes). ``duplicate_of``: folder of the equal run that was taken over.
    """

    cfg: DictConfig
    run_dir: Path
    benchmark: Benchmark
    streams: Sequence[Stream]
    backbone: torch.nn.Module | None = None
    duplicate_of: Path | None = None

    def finish(self, sweep_dir: Path | None = None) -> Summary:
        """Run what is missing and return the summary; an equal finished run of the same sweep is taken over.

        Raises ``ValueError`` when the folder holds another run.
        """
        settings = run_settings(self.cfg, self.streams)
        with alone_with(fingerprint_of(settings), sweep_dir):
            return self._finish(claim_run_folder(self.run_dir, settings), sweep_dir)

    def _finish(self, fingerprint: str, sweep_dir: Path | None) -> Summary:
        duplicate = self.run_dir / DUPLICATE_FILE
        self.duplicate_of = self._equal_run(sweep_dir, fingerprint) if sweep_dir else None
        if self.duplicate_of is not None:
            content = {"fingerprint": fingerprint, "run": os.path.relpath(self.duplicate_of, self.run_dir)}
            write_text_atomically(duplicate, json.dumps(content, indent=2) + "\n")
            return read_summary(self.duplicate_of)
        duplicate.unlink(missing_ok=True)
        return self._complete(fingerprint, sweep_dir)

    def _equal_run(self, sweep_dir: Path, fingerprint: str) -> Path | None:
        """A finished run that says all that this one is to say."""
        finished = find_finished(sweep_dir, fingerprint, self.run_dir)
        if finished and self._with_fidelity and read_summary(finished).get("fidelity") is None:
            return None
        return finished

    @property
    def _with_fidelity(self) -> bool:
        return OmegaConf.select(self.cfg, "measure.fidelity", default=False)

    def _complete(self, fingerprint: str, sweep_dir: Path | None) -> Summary:
        records = self._known_records()
        tasks = pending_tasks(self.streams, records)
        if tasks:
            self._describe()
            try:
                self._predict(tasks, fingerprint, sweep_dir)
            finally:
                records = collect_records(self.run_dir)
        requested_tokens = build(self.cfg.pruner).num_kept(_tokens_per_frame(self.cfg))
        clock = Clock(records)
        write_clock(self.run_dir, clock.responses)
        summary = summarize(records, requested_tokens, self.cfg.seed, self.cfg.dataset.name)
        summary |= self._facts(fingerprint)
        summary |= {"clock": clock.summary(self.benchmark.fps), "encoding": encoding_summary(records)}
        summary["prompt"] = prompt_summary(self.cfg.dataset.get("prompt"), records)
        write_summary(self.run_dir, summary)
        return summary

    def _known_records(self) -> list[Record]:
        records = collect_records(self.run_dir)
        if OmegaConf.select(self.cfg, "retry_failed", default=False):
            records = [record for record in records if record.status != "failed"]
            write_records(self.run_dir / RECORDS_FILE, records)
        if self._with_fidelity:
            check_measured(records, self.run_dir)
        return records

    def _describe(self) -> None:
        """Save the settings where the command line did not, and take away a summary that will be out of date."""
        (self.run_dir / SUMMARY_FILE).unlink(missing_ok=True)
        if not (self.run_dir / CONFIG_FILE).exists():
            save_config(self.cfg, self.run_dir / CONFIG_FILE)

    def _predict(self, tasks: list[StreamTask], fingerprint: str, sweep_dir: Path | None) -> None:
        cfg = OmegaConf.create(OmegaConf.to_container(self.cfg, resolve=True))
        module = StreamPredictor(cfg, self.benchmark, fingerprint, self.backbone, self._maps())
        callbacks = [RecordWriter(self.run_dir), StreamProgress(self.benchmark.fps)]
        device = own_device(resolved_accelerator(cfg.trainer.accelerator), sweep_dir)
        with quiet_lightning(), ends_on_sigterm(), device as index:
            trainer = make_trainer(cfg.trainer, self.run_dir, callbacks, index)
            trainer.predict(module, datamodule=StreamDataModule(tasks), return_predictions=False)
        self.backbone = module.backbone

    def _maps(self) -> TokenMaps | None:
        """Of the first streams of the benchmark, whatever is left to be asked."""
        num_streams = self.cfg.measure.token_maps
        if not num_streams:
            return None
        methods = (described(build(self.cfg.cacher)), described(build(self.cfg.pruner)))
        return TokenMaps(self.run_dir, tuple(stream.stream_id for stream in self.streams[:num_streams]), methods)

    def _facts(self, fingerprint: str) -> dict[str, Any]:
        cfg = self.cfg
        device = resolved_accelerator(cfg.trainer.accelerator)
        return {
            "run": {group: cfg[group].name for group in ("backbone", "cacher", "pruner", "memory", "dataset")},
            "settings": {group: repr(build(cfg[group])) for group in ("cacher", "pruner", "memory")},
            "fps": self.benchmark.fps,
            "seed": cfg.seed,
            "device": device,
            "device_name": torch.cuda.get_device_name() if device == "cuda" else cpu_model(),
            "num_devices": cfg.trainer.devices,
            "precision": cfg.trainer.precision,
            "fingerprint": fingerprint,
        }


def _tokens_per_frame(cfg: DictConfig) -> int:
    """Visual tokens of a frame before pruning; where they depend on the video, the most there can be."""
    return build(cfg.backbone).facts().tokens_per_frame

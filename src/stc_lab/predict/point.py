"""One point: a backbone with one cacher and one pruner on one benchmark, in one folder."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from stc_lab.benchmarks.base import Benchmark
from stc_lab.config import build, resolved_accelerator, save_config
from stc_lab.config.build import settings_of, target_of
from stc_lab.config.environment import cpu_model
from stc_lab.predict.data import StreamDataModule
from stc_lab.predict.devices import alone_with, own_device
from stc_lab.predict.identity import claim_run_folder, find_finished, run_settings
from stc_lab.predict.identity import fingerprint as fingerprint_of
from stc_lab.predict.module import StreamPredictor
from stc_lab.predict.progress import StreamProgress
from stc_lab.predict.quiet import quiet_lightning
from stc_lab.predict.tasks import StreamTask, pending_tasks
from stc_lab.predict.termination import ends_on_sigterm
from stc_lab.predict.trainer import make_trainer
from stc_lab.predict.writer import RecordWriter
from stc_lab.results.clock import Clock, encoding_summary, prompt_summary, write_clock
from stc_lab.results.records import (
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
from stc_lab.token_maps.folder import TokenMaps, described
from stc_lab.types import Stream

Summary = dict[str, Any]


@dataclass
class Point:
    """Settings and folder of a point, and the streams it is asked about.

    ``backbone`` is a loaded backbone to be used, and then the one that was used (``None`` when nothing had to
    run, or when it was loaded by other processes). ``twin``: folder of the equal run that was taken over.
    """

    cfg: DictConfig
    run_dir: Path
    benchmark: Benchmark
    streams: Sequence[Stream]
    backbone: torch.nn.Module | None = None
    twin: Path | None = None

    def finish(self, sweep_dir: Path | None = None) -> Summary:
        """Run what is missing and return the summary; an equal finished run of the same sweep is taken over.

        Raises ``ValueError`` when the folder holds another run.
        """
        settings = run_settings(self.cfg, self.streams)
        with alone_with(fingerprint_of(settings), sweep_dir):
            return self._finish(claim_run_folder(self.run_dir, settings), sweep_dir)

    def _finish(self, fingerprint: str, sweep_dir: Path | None) -> Summary:
        duplicate = self.run_dir / DUPLICATE_FILE
        self.twin = self._equal_run(sweep_dir, fingerprint) if sweep_dir else None
        if self.twin is not None:
            content = {"fingerprint": fingerprint, "run": os.path.relpath(self.twin, self.run_dir)}
            write_text_atomically(duplicate, json.dumps(content, indent=2) + "\n")
            return read_summary(self.twin)
        duplicate.unlink(missing_ok=True)
        return self._complete(fingerprint, sweep_dir)

    def _equal_run(self, sweep_dir: Path, fingerprint: str) -> Path | None:
        """A finished run that says all that this one is to say."""
        twin = find_finished(sweep_dir, fingerprint, self.run_dir)
        is_enough = twin is not None and (not self._with_fidelity or read_summary(twin).get("fidelity") is not None)
        return twin if is_enough else None

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
            "run": {group: cfg[group].name for group in ("backbone", "cacher", "pruner", "dataset")},
            "settings": {"cacher": repr(build(cfg.cacher)), "pruner": repr(build(cfg.pruner))},
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
    settings = settings_of(cfg.backbone)
    if settings["tokens_per_frame"] is not None:
        return settings["tokens_per_frame"]
    return target_of(settings).nominal_tokens(settings)

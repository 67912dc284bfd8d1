"""One point: a model with a cacher, a pruner and a memory on one benchmark, in one folder."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from stc_lab.backbones.base import VideoModel
from stc_lab.config import RunSettings, build, conf_dir, resolved_accelerator, save_config
from stc_lab.config.environment import cpu_model
from stc_lab.predict.loop import StreamDataModule, StreamPredictor
from stc_lab.predict.progress import StreamProgress
from stc_lab.predict.resume import (
    RecordWriter,
    alone_with,
    claim_run_folder,
    find_finished,
    fingerprint_of,
    own_device,
    pending_tasks,
    run_settings,
)
from stc_lab.predict.stream import StreamTask
from stc_lab.predict.trainer import ends_on_sigterm, make_trainer, quiet_lightning
from stc_lab.results.clock import Clock, encoding_summary, prompt_summary, write_clock
from stc_lab.results.records import (
    CONFIG_FILE,
    DUPLICATE_FILE,
    RECORDS_FILE,
    SUMMARY_FILE,
    Record,
    check_schema,
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


def uncompressed(settings: RunSettings) -> RunSettings:
    """The same run without cacher and pruner; model and memory stay."""
    cfg = OmegaConf.create(OmegaConf.to_container(settings.cfg, resolve=True))
    for group in ("cacher", "pruner"):
        cfg[group] = OmegaConf.load(conf_dir() / group / "none.yaml")
    cfg.measure.fidelity = False  # it would compare the run with itself
    return replace(settings, cfg=cfg, cacher=build(cfg.cacher), pruner=build(cfg.pruner))


@dataclass
class Point:
    """Settings and folder of a point, and the streams it is asked about.

    ``model`` is a loaded one to be used, and then the one that was used (``None`` when nothing had to run, or when it
    was loaded by other processes). ``duplicate_of``: folder of the equal run that was taken over.
    """

    settings: RunSettings
    run_dir: Path
    streams: Sequence[Stream]
    model: VideoModel | None = None
    duplicate_of: Path | None = None

    def finish(self, sweep_dir: Path | None = None) -> Summary:
        """Run what is missing and return the summary; an equal finished run of the same sweep is taken over.

        Raises ``ValueError`` when the folder holds another run.
        """
        identity = run_settings(self.settings, self.streams)
        with alone_with(fingerprint_of(identity), sweep_dir):
            return self._finish(claim_run_folder(self.run_dir, identity), sweep_dir)

    def _finish(self, fingerprint: str, sweep_dir: Path | None) -> Summary:
        duplicate = self.run_dir / DUPLICATE_FILE
        self.duplicate_of = self._equal_run(sweep_dir, fingerprint) if sweep_dir else None
        if self.duplicate_of is not None:
            content = {"fingerprint": fingerprint, "run": os.path.relpath(self.duplicate_of, self.run_dir)}
            write_text_atomically(duplicate, json.dumps(content, indent=2) + "\n")
            return read_summary(self.duplicate_of)
        # The run that this one was equal to may be gone by now.
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
        return OmegaConf.select(self.settings.cfg, "measure.fidelity", default=False)

    def _complete(self, fingerprint: str, sweep_dir: Path | None) -> Summary:
        records = self._known_records()
        tasks = pending_tasks(self.streams, records)
        if tasks:
            self._describe()
            try:
                self._predict(tasks, fingerprint, sweep_dir)
            finally:  # shards of several processes become one file, also after a failure
                records = collect_records(self.run_dir)
        requested_tokens = self.settings.pruner.num_kept(self.settings.backbone.facts().tokens_per_frame)
        # All numbers come from the records, those of earlier starts included.
        clock = Clock(records)
        write_clock(self.run_dir, clock.responses)
        requested_read = getattr(self.settings.memory, "budget", None)
        cfg = self.settings.cfg
        summary = summarize(records, requested_tokens, cfg.seed, cfg.dataset.name, requested_read)
        summary |= self._facts(fingerprint)
        summary |= {"clock": clock.summary(self.settings.benchmark.fps), "encoding": encoding_summary(records)}
        summary["prompt"] = prompt_summary(self.settings.cfg.dataset.get("prompt"), records)
        write_summary(self.run_dir, summary)
        return summary

    def _known_records(self) -> list[Record]:
        """Of an earlier start. Raises ``ValueError`` where this one cannot go on from them."""
        records = collect_records(self.run_dir)
        check_schema(records, self.run_dir)
        if OmegaConf.select(self.settings.cfg, "retry_failed", default=False):
            records = [record for record in records if record.status != "failed"]
            write_records(self.run_dir / RECORDS_FILE, records)
        if self._with_fidelity:
            check_measured(records, self.run_dir)
        return records

    def _describe(self) -> None:
        """Save the settings where the command line did not, and take away a summary that will be out of date."""
        (self.run_dir / SUMMARY_FILE).unlink(missing_ok=True)
        if not (self.run_dir / CONFIG_FILE).exists():
            save_config(self.settings.cfg, self.run_dir / CONFIG_FILE)

    def _predict(self, tasks: list[StreamTask], fingerprint: str, sweep_dir: Path | None) -> None:
        # Processes of their own cannot look up what only this one knows: interpolations go in as values.
        cfg = OmegaConf.create(OmegaConf.to_container(self.settings.cfg, resolve=True))
        module = StreamPredictor(replace(self.settings, cfg=cfg), fingerprint, self.model, self._maps())
        callbacks = [RecordWriter(self.run_dir), StreamProgress(self.settings.benchmark.fps)]
        device = own_device(resolved_accelerator(cfg.trainer.accelerator), sweep_dir)
        with quiet_lightning(), ends_on_sigterm(), device as index:
            trainer = make_trainer(cfg.trainer, self.run_dir, callbacks, index)
            trainer.predict(module, datamodule=StreamDataModule(tasks), return_predictions=False)
        self.model = module.model

    def _maps(self) -> TokenMaps | None:
        """Of the first streams of the benchmark, whatever is left to be asked."""
        num_streams = self.settings.cfg.measure.token_maps
        if not num_streams:
            return None
        methods = (described(self.settings.cacher), described(self.settings.pruner))
        return TokenMaps(self.run_dir, tuple(stream.stream_id for stream in self.streams[:num_streams]), methods)

    def _facts(self, fingerprint: str) -> dict[str, Any]:
        cfg = self.settings.cfg
        device = resolved_accelerator(cfg.trainer.accelerator)
        return {
            "run": {group: cfg[group].name for group in ("backbone", "memory", "cacher", "pruner", "dataset")},
            "settings": {group: repr(getattr(self.settings, group)) for group in ("cacher", "pruner", "memory")},
            "fps": self.settings.benchmark.fps,
            "seed": cfg.seed,
            "device": device,
            "device_name": torch.cuda.get_device_name() if device == "cuda" else cpu_model(),
            "num_devices": cfg.trainer.devices,
            "precision": cfg.trainer.precision,
            "fingerprint": fingerprint,
        }

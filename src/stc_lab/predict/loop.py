"""The predict loop in Lightning's terms: a stream is an item of data, a step asks all its questions."""

from __future__ import annotations

import gc
import logging
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset

from stc_lab.backbones.base import VideoModel
from stc_lab.cachers.none import NoCacher
from stc_lab.config import RunSettings
from stc_lab.measure import StageTimer, reset_peak_memory
from stc_lab.predict.fidelity import FidelitySession
from stc_lab.predict.recorder import Recorder, failure_reason
from stc_lab.predict.stream import Session, StreamTask, run_stream
from stc_lab.predict.trainer import DTYPES, default_dtype, die_on_sigterm, exact_products
from stc_lab.pruners.none import NoPruner
from stc_lab.results.records import Record
from stc_lab.session import StreamSession
from stc_lab.token_maps import Collector, TokenMaps
from stc_lab.video import DecoderProcess, FrameSource, VideoError, open_video

log = logging.getLogger(__name__)

MAX_ERRORS_IN_A_ROW = 3
TRACEBACK_FRAMES = 4


class StreamCallback(Callback):
    """A Lightning callback that also hears of frames and records; all events are optional."""

    def on_stream_start(self, task: StreamTask, duration_s: float | None) -> None:
        """The video of a stream was opened; ``duration_s`` when its header tells."""

    def on_frames(self, num_frames: int) -> None:
        """So many more frames were pushed."""

    def on_record(self, record: Record) -> None:
        """A question is done, answered or not."""

    def on_stream_end(self, task: StreamTask) -> None:
        """All pending questions of the stream have a record."""


def notify(trainer: Trainer, event: str, *args: object) -> None:
    """Call ``event`` of every :class:`StreamCallback` of the trainer."""
    for callback in trainer.callbacks:
        if isinstance(callback, StreamCallback):
            getattr(callback, event)(*args)


class StreamDataset(Dataset):
    """Tasks by number."""

    def __init__(self, tasks: Sequence[StreamTask]) -> None:
        self.tasks = tasks

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> StreamTask:
        return self.tasks[index]


class StreamDataModule(LightningDataModule):
    """Feeds the pending streams; with several devices Lightning gives each its share, none twice."""

    def __init__(self, tasks: Sequence[StreamTask]) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.tasks = list(tasks)

    def predict_dataloader(self) -> DataLoader:
        return DataLoader(StreamDataset(self.tasks), batch_size=1, shuffle=False, num_workers=0, collate_fn=_only)

    def transfer_batch_to_device(self, batch: StreamTask, device: torch.device, dataloader_idx: int) -> StreamTask:
        """A task holds no tensors."""
        return batch

    def share(self, rank: int, world_size: int) -> list[StreamTask]:
        """The tasks that process ``rank`` of ``world_size`` gets."""
        return self.tasks[rank::world_size]


def _only(batch: list[StreamTask]) -> StreamTask:
    (task,) = batch
    return task


class StreamPredictor(LightningModule):
    """Runs streams through sessions of one model.

    The model is loaded in the process that uses it, unless a loaded one is given. A broken video costs the
    questions that are left of its stream. So does any other exception, which is also recorded as ``error``,
    logged with its traceback, and makes the run end with an error once all streams are through; when several
    streams in a row end that way, the run stops at once and leaves the rest for a resumed run.
    ``maps``: which streams get a token map.
    """

    def __init__(
        self,
        settings: RunSettings,
        fingerprint: str,
        model: VideoModel | None = None,
        maps: TokenMaps | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.cfg = settings.cfg
        self.fingerprint = fingerprint
        self.model = model
        self.maps = maps
        self._decoder: DecoderProcess | None = None
        self._errors_in_a_row = 0

    def configure_model(self) -> None:
        if self.model is None:
            with default_dtype(DTYPES[self.cfg.trainer.precision]):
                self.model = self.settings.backbone.load()

    def on_predict_start(self) -> None:
        # Runs once in each process, before its first stream.
        if self.trainer.world_size > 1:
            die_on_sigterm()
        if self.cfg.trainer.num_threads is not None:
            torch.set_num_threads(self.cfg.trainer.num_threads)
        reset_peak_memory(self.device)
        self._decoder = DecoderProcess()
        gc.freeze()  # or a collection in mid-stream goes through all that was imported, a quarter of a second
        measure = self.cfg.measure
        self.recorder = Recorder(
            self.fingerprint, self.settings.benchmark, str(self.device), measure.warmup_frames, measure.warmup_questions
        )

    def teardown(self, stage: str) -> None:
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None
            gc.unfreeze()

    def predict_step(self, task: StreamTask, batch_idx: int) -> list[Record]:
        # Every stream begins with the same seed, so that its answers do not depend on what ran before it.
        torch.manual_seed(self.cfg.seed)
        records = []
        with exact_products(self.cfg.trainer.precision):
            for record in self._records(task):
                notify(self.trainer, "on_record", record)
                records.append(record)
        notify(self.trainer, "on_stream_end", task)
        return records

    def _records(self, task: StreamTask) -> Iterator[Record]:
        """One record per pending question, whatever happens inside the stream."""
        done: set[str] = set()
        try:
            for record in self._answers(task):
                done.add(record.question_id)
                yield record
        except VideoError as error:
            reason, summary = f"video {error.kind}: {error}", None
            log.warning("stream '%s' failed: %s", task.stream.stream_id, reason)
        except Exception as error:
            reason, summary = self._note_error(task, error)
        else:
            self._errors_in_a_row = 0
            return
        # The stream broke: what it leaves unanswered is recorded as failed, and counts as wrong.
        for question in task.pending:
            if question.question_id not in done:
                yield self.recorder.failed(task.stream, question, reason, summary)
        self._stop_if_hopeless(reason)

    def _answers(self, task: StreamTask) -> Iterator[Record]:
        # Where questions become part of the stream, a resumed one must hear those that it has answered already.
        reask = self.settings.memory.changes_stream
        with self._map(task) as observers, self._open_video(task) as source:
            notify(self.trainer, "on_stream_start", task, source.info.duration_s)
            open_session = partial(self._open_session, observers)
            yield from run_stream(task, open_session, source, self.recorder, self._chunk_size, self._on_frames, reask)

    def _map(self, task: StreamTask) -> AbstractContextManager[list[Collector]]:
        return nullcontext([]) if self.maps is None else self.maps.of(task.stream.stream_id)

    def _open_video(self, task: StreamTask) -> FrameSource:
        video = self.cfg.video
        with self.recorder.attribute_to("wait_ms"):
            return open_video(
                task.stream.video, video.reader, self.settings.benchmark.fps, video.timeout_s, process=self._decoder
            )

    def _open_session(self, observers: list[Collector]) -> Session:
        """A new session, to which the first of ``observers`` is handed over."""
        cacher, pruner, memory = self.settings.cacher, self.settings.pruner, self.settings.memory
        with self.recorder.attribute_to("start_ms"):
            session = StreamSession(self.model, cacher, pruner, memory, StageTimer(self.device))
        if observers:
            session.observe_with(observers.pop(0))
        if not self.cfg.measure.get("fidelity", False):
            return session
        with self.recorder.exclude():  # the time of the uncompressed session beside it does not count
            reference = StreamSession(self.model, NoCacher(), NoPruner(), memory, StageTimer(self.device))
        return FidelitySession(session, reference, self.recorder.exclude)

    @property
    def _chunk_size(self) -> int:
        """Frames per push: those that the cacher takes through the tower as one batch."""
        return getattr(self.settings.cacher, "chunk_size", 1) * self.model.facts.frames_per_patch

    def _on_frames(self, num_frames: int) -> None:
        notify(self.trainer, "on_frames", num_frames)

    def _note_error(self, task: StreamTask, error: Exception) -> tuple[str, str]:
        log.exception("stream '%s' failed", task.stream.stream_id)
        self._errors_in_a_row += 1
        frames = traceback.extract_tb(error.__traceback__)[-TRACEBACK_FRAMES:]
        where = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
        return failure_reason(error), " > ".join(where)

    def _stop_if_hopeless(self, reason: str) -> None:
        if self._errors_in_a_row >= MAX_ERRORS_IN_A_ROW:
            raise RuntimeError(
                f"stopped: {self._errors_in_a_row} streams in a row failed, the last with {reason}. Run again with "
                f"retry_failed=true to ask their questions again"
            )

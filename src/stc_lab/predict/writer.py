"""Appends records to disk as they come."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from stc_lab.predict.callbacks import StreamCallback
from stc_lab.predict.tasks import StreamTask
from stc_lab.results.records import Record, shard_path

SECONDS_BETWEEN_SYNCS = 10.0  # each takes milliseconds


class RecordWriter(StreamCallback, BasePredictionWriter):
    """One line per question, handed to the system before the next is asked, to the disk every few seconds.

    A killed process loses nothing; a power cut loses the last streams, which are asked again.

    With several processes each appends to a file of its own, see :mod:`stc_lab.results.records`.
    """

    def __init__(self, run_dir: Path) -> None:
        super().__init__(write_interval="batch")
        self.run_dir = run_dir
        self._file: IO[str] | None = None
        self._synced_at = time.monotonic()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        path = shard_path(self.run_dir, trainer.global_rank, trainer.world_size)
        self._file = path.open("a", encoding="utf-8")

    def on_record(self, record: Record) -> None:
        self._file.write(record.to_line() + "\n")
        self._file.flush()

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Sequence[Record],
        batch_indices: Sequence[int] | None,
        batch: StreamTask,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Every pending question of the stream has exactly one record by now."""
        asked = sorted(question.question_id for question in batch.pending)
        assert sorted(record.question_id for record in prediction) == asked, (batch.stream.stream_id, asked)
        if time.monotonic() - self._synced_at > SECONDS_BETWEEN_SYNCS:
            self._sync()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced_at = time.monotonic()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._file is not None:
            self._sync()
            self._file.close()
            self._file = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> Any:
        self.teardown(trainer, pl_module, "predict")

"""What is there already: the same run in its folder or in the sweep, its records, and who is at work on it now."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from stc_lab.backbones.base import Backbone
from stc_lab.backbones.checkpoints import HUB_ID
from stc_lab.config import RunSettings, canonical
from stc_lab.predict.loop import StreamCallback
from stc_lab.predict.stream import StreamTask
from stc_lab.results.records import (
    BASELINE_DIR,
    DUPLICATE_FILE,
    IDENTITY_FILE,
    RECORDS_FILE,
    SUMMARY_FILE,
    Record,
    shard_path,
    write_text_atomically,
)
from stc_lab.types import Stream

log = logging.getLogger(__name__)

DIGESTED_BYTES = 16 * 1024**2
LOCKS_DIR = ".locks"
SECONDS_BETWEEN_TRIES = 1.0
SECONDS_BETWEEN_SYNCS = 10.0  # each takes milliseconds


def run_settings(settings: RunSettings, streams: Sequence[Stream]) -> dict[str, Any]:
    """Everything that can change an answer, as a flat dictionary with dotted keys.

    That is the canonical configuration, a digest of the streams and their questions, and a digest of the
    checkpoint where it is the shipped one or a folder (one of the hub is known by its id and revision).
    """
    digests = {"data_digest": streams_digest(streams), "weights_digest": _weights_digest(settings.backbone)}
    return _flat({**canonical(settings), **digests})


def fingerprint_of(settings: Mapping[str, Any]) -> str:
    """SHA-256 over flat settings; the key of records, never a folder name."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def streams_digest(streams: Sequence[Stream]) -> str:
    """Digest of the streams' ids, questions and sizes of the video files; their folder does not matter."""
    digest = hashlib.sha256()
    for stream in sorted(streams, key=lambda stream: stream.stream_id):
        size = stream.video.stat().st_size if stream.video.is_file() else None
        # Size and name of a video, not its bytes: a benchmark can have terabytes of them.
        digest.update(repr((stream.stream_id, stream.video.name, size, stream.questions)).encode())
    return digest.hexdigest()


def folder_digest(folder: Path) -> str:
    """Digest of the weights and settings in a checkpoint folder; of large files only size, head and tail count."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]):
        size = path.stat().st_size
        digest.update(repr((path.name, size)).encode())
        # The head of a safetensors file holds names, shapes and offsets of all tensors.
        with path.open("rb") as file:
            digest.update(file.read(DIGESTED_BYTES))
            file.seek(max(0, size - DIGESTED_BYTES))
            digest.update(file.read())
    return digest.hexdigest()


def claim_run_folder(run_dir: Path, settings: Mapping[str, Any]) -> str:
    """Take ``run_dir`` for a run with these settings, or find that it already is one; returns the fingerprint.

    Raises ``ValueError`` naming the settings that differ when the folder holds another run, or records of an
    unknown one.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / IDENTITY_FILE
    if path.is_file():
        _check_same(run_dir, json.loads(path.read_text(encoding="utf-8"))["settings"], settings)
    elif (run_dir / RECORDS_FILE).is_file():
        raise ValueError(f"{run_dir} holds {RECORDS_FILE} without {IDENTITY_FILE}: choose another run folder")
    content = {"fingerprint": fingerprint_of(settings), "settings": dict(settings)}
    write_text_atomically(path, json.dumps(content, indent=2, default=str) + "\n")
    return content["fingerprint"]


def find_finished(sweep_dir: Path, wanted: str, besides: Path) -> Path | None:
    """A finished run with fingerprint ``wanted`` among the runs of a sweep and their baselines, but ``besides``."""
    folders = [path.parent for path in sorted(sweep_dir.glob(f"*/{IDENTITY_FILE}"))]
    folders += [path.parent for path in sorted(sweep_dir.glob(f"*/{BASELINE_DIR}/{IDENTITY_FILE}"))]
    for folder in folders:
        # A copy of another run has no records; the run that it copies is found by itself.
        if folder.resolve() == besides.resolve() or not (folder / SUMMARY_FILE).is_file():
            continue
        if (folder / DUPLICATE_FILE).is_file():
            continue
        if json.loads((folder / IDENTITY_FILE).read_text(encoding="utf-8"))["fingerprint"] == wanted:
            return folder
    return None


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """``key: old -> new`` for every key of two flat dictionaries with another value."""
    # Compared as the folder has them: what JSON cannot say is text there.
    plain = json.loads(json.dumps(dict(new), default=str))
    keys = sorted(key for key in {*old, *plain} if old.get(key) != plain.get(key))
    return [f"{key}: {old.get(key)!r} -> {plain.get(key)!r}" for key in keys]


def _check_same(run_dir: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    changed = differences(old, new)
    if changed:
        raise ValueError(
            f"{run_dir} holds a run with other settings ({'; '.join(changed)}): set them back to resume it, or choose "
            f"another folder with hydra.run.dir"
        )


def _weights_digest(backbone: Backbone) -> str | None:
    if HUB_ID.fullmatch(backbone.checkpoint):
        return None
    checkpoint = backbone.local_files()
    return folder_digest(checkpoint.folder) if checkpoint else None


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + str(key)] = value
    return flat


def pending_tasks(streams: Sequence[Stream], records: Iterable[Record]) -> list[StreamTask]:
    """Streams with at least one question without a record, in benchmark order."""
    recorded: dict[str, set[str]] = {}
    for record in records:
        recorded.setdefault(record.stream_id, set()).add(record.question_id)
    tasks = [StreamTask(stream, frozenset(recorded.get(stream.stream_id, ()))) for stream in streams]
    return [task for task in tasks if task.pending]


def check_unique_ids(streams: Sequence[Stream]) -> None:
    """Raise ``ValueError`` when two streams, or two questions of a stream, share an id."""
    _check_unique([stream.stream_id for stream in streams], "stream ids of the dataset")
    for stream in streams:
        _check_unique([q.question_id for q in stream.questions], f"question ids of stream '{stream.stream_id}'")


def _check_unique(names: list[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what} are not unique: '{name}' occurs twice")
        seen.add(name)


class RecordWriter(StreamCallback, BasePredictionWriter):
    """One line per question, handed to the system before the next is asked, to the disk every few seconds.

    A killed process loses nothing; a power cut loses the last streams, which are asked again.
    With several processes each appends to a file of its own (a shard).
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
        # Flushed: the line survives this process, whatever ends it.
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


@contextmanager
def alone_with(fingerprint: str, sweep_dir: Path | None) -> Iterator[None]:
    """Hold the right to run the point of that fingerprint; a second process waits, and then finds the result.

    Locks end with their process, however it ends. Without ``sweep_dir`` there is nothing to share.
    """
    if sweep_dir is None:
        yield
        return
    with _lock(sweep_dir, f"{fingerprint}.lock"):
        yield


@contextmanager
def own_device(accelerator: str, sweep_dir: Path | None) -> Iterator[int | None]:
    """Index of a GPU that no other running point of the sweep has; ``None`` where there is nothing to choose.

    Job ``n`` gets GPU ``n`` modulo their number when that is free, and the next free one otherwise; with more workers
    than GPUs it waits for one, since times on a shared GPU would mean nothing.
    """
    if accelerator != "cuda" or sweep_dir is None:
        yield None
        return
    names = [_device_name(index) for index in range(torch.cuda.device_count())]
    index, lock = claim(sweep_dir, names, first=_job_num() % len(names))
    try:
        yield index
    finally:
        lock.release()


def claim(sweep_dir: Path, names: list[str], first: int) -> tuple[int, FileLock]:
    """Index of the first free name from ``first`` on, and the lock that keeps it; waits until there is one."""
    order = [(first + offset) % len(names) for offset in range(len(names))]
    is_first_try = True
    while True:
        # A device is free when its lock is; a process that dies lets go of it.
        for index in order:
            lock = _lock(sweep_dir, f"{names[index]}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            return index, lock
        if is_first_try:
            log.warning(f"all {len(names)} GPUs are in use by this sweep: waiting for one (fewer workers would do)")
        is_first_try = False
        time.sleep(SECONDS_BETWEEN_TRIES)


def _lock(sweep_dir: Path, name: str) -> FileLock:
    folder = sweep_dir / LOCKS_DIR
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / name)


def _device_name(index: int) -> str:
    """The same for one physical device in all processes, whatever they see of the others."""
    return f"{platform.node()}-{torch.cuda.get_device_properties(index).uuid}"


def _job_num() -> int:
    return HydraConfig.get().job.get("num") or 0 if HydraConfig.initialized() else 0

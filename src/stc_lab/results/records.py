"""Records and their files: ``records.jsonl`` has one JSON object per question, the only truth about a run.

Also the names of the other files in a run folder, and ``summary.json``, which is derived from the records.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

CONFIG_FILE = "config.yaml"
IDENTITY_FILE = "fingerprint.json"
DUPLICATE_FILE = "duplicate_of.json"
ERROR_FILE = "error.json"
"""Why a run failed, as ``{"type", "reason", "traceback"}``."""
REFUSED_FILE = "refused.json"
"""Why a point of a multirun is no legal combination, as ``{"reason": ...}``; it has not been run."""
BASELINE_DIR = "baseline"


RECORDS_FILE = "records.jsonl"
SCHEMA = 2
READABLE_SCHEMAS = (1, 2)
"""Schema 1 knows of no budgets but tokens per frame."""
TIMING_FIELDS = ("latency_ms", "ttft_ms", "wall_ms", "warmup", "memory")
FRAME_TIMING_FIELDS = ("latency_ms", "num_warmup", "wait_ms", "start_ms")
FIDELITY_FIELD = "fidelity"


@dataclass
class Record:
    """What became of one question.

    ``time_s`` is ``None`` for a question at the end of the video. ``status``: ``answered``; ``unanswered`` when no
    answer could be read (where an official rule judges texts: when nothing was said); ``failed`` with ``reason`` when
    the stream broke. ``error`` is set only when the cause was a defect of the program or the machine (out of memory),
    not of the video. ``correct`` is ``None`` without a gold answer. ``frames`` holds one list entry per frame since the
    previous question: ``timestamp_s``, ``num_tokens``, ``num_tokens_full``, ``is_reference``, ``update_ratio``,
    ``vision_batch_size`` (frames that passed the tower together), ``num_source_frames`` (video frames that an entry
    stands for, where not 1), ``commentary`` (what was said by itself: start, stop, text), ``latency_ms`` and ``flops``
    per stage, besides ``num_warmup`` (that many first frames are not for latency statistics), ``wait_ms`` (all in all,
    the loop waited so long for the video: to open, and for frames not decoded in time) and ``start_ms`` (time to open
    the session: its first prompt). ``latency_ms`` and ``flops`` are those of the question itself. ``wall_ms`` is the
    time since the previous record was made, loop, records and progress display included. ``memory`` holds
    ``peak_mem_gib`` and the session's own counts, such as ``kv_bytes_device`` and ``kv_bytes_host``.
    ``tokens_read``: visual tokens that the question read, mean over the layers of the language model, and
    ``tokens_read_max`` of the layer that read most; ``bytes_kept``: all that the session keeps between frames.
    ``context_start_s``: frames before it were not shown. ``chat_template``: whether one was applied to the prompt.
    ``meta``: facts of the benchmark for its scoring rule. ``polls``, for a question that waits for its moment, has one
    entry per poll: ``time_s``, ``text``, ``num_frames_seen`` and ``latency_ms``; ``details["answered_s"]`` is the time
    of the poll that said yes, ``None`` when none did. A model that decides by itself has its decisions there instead.
    ``fidelity``, and the columns of that name in ``frames``: likeness to the uncompressed run, with
    ``measure.fidelity`` (see ``stc_lab.predict.fidelity``).
    """

    fingerprint: str
    stream_id: str
    question_id: str
    task: str
    group: str
    time_s: float | None
    question: str
    options: list[str]
    answer: str
    status: str
    reason: str | None = None
    error: str | None = None
    prediction: str | None = None
    correct: bool | None = None
    text: str = ""
    reader: str | None = None
    letter_logits: dict[str, float] | None = None
    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    num_frames_seen: int = 0
    tokens_read: float | None = None
    tokens_read_max: int | None = None
    bytes_kept: int | None = None
    last_frame_time_s: float | None = None
    frames: dict[str, Any] = field(default_factory=dict)
    latency_ms: dict[str, float] = field(default_factory=dict)
    flops: dict[str, int] = field(default_factory=dict)
    ttft_ms: float | None = None
    wall_ms: float | None = None
    warmup: bool = False
    memory: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    context_start_s: float = 0.0
    chat_template: bool | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    polls: dict[str, list] = field(default_factory=dict)
    fidelity: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def key(self) -> tuple[str, str]:
        """Stream and question id, unique within a run."""
        return self.stream_id, self.question_id

    def to_line(self) -> str:
        """The record as one line of JSON, without the line break."""
        return json.dumps(vars(self), allow_nan=False, separators=(",", ":"))


def answer_view(record: Record) -> dict[str, Any]:
    """The part that must not depend on speed, stream order, sharding or interruptions: all but times and fidelity."""
    left_out = {FIDELITY_FIELD, *TIMING_FIELDS}
    view = {name: value for name, value in asdict(record).items() if name not in left_out}
    left_out = {FIDELITY_FIELD, *FRAME_TIMING_FIELDS}
    view["frames"] = {name: value for name, value in record.frames.items() if name not in left_out}
    view["polls"] = {name: value for name, value in record.polls.items() if name != "latency_ms"}
    return view


def read_records(path: Path) -> list[Record]:
    """All complete records of a file, in file order; none when the file is missing.

    A last line that was cut off (a killed run) is left out. Raises ``ValueError`` for any other line that is
    not a record of this schema, and for a question that is recorded twice.
    """
    if not path.is_file():
        return []
    # A killed writer leaves half a line at the end: its question is asked again.
    lines = path.read_bytes()[: _complete_size(path)].splitlines()
    records = [_parse(path, number, line) for number, line in enumerate(lines, 1)]
    check_unique(records, path)
    return records


def drop_torn_line(path: Path) -> None:
    """Cut a half-written last line off, so that the next record starts on a line of its own."""
    if path.is_file() and _complete_size(path) < path.stat().st_size:
        os.truncate(path, _complete_size(path))


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Replace the file at once: a reader sees the old file or the new one, never a part."""
    write_text_atomically(path, "".join(record.to_line() + "\n" for record in records))


def write_text_atomically(path: Path, text: str) -> None:
    """Write beside ``path``, flush to disk, rename."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def check_schema(records: Iterable[Record], run_dir: Path) -> None:
    """Raise ``ValueError`` when a run that is to be resumed in ``run_dir`` has records of another schema."""
    others = sorted({record.schema for record in records} - {SCHEMA})
    if others:
        raise ValueError(
            f"{run_dir} holds records of schema {others[0]}, and this version writes schema {SCHEMA}: one run has one "
            f"schema; choose another folder with hydra.run.dir (report, compare and score still read the old one)"
        )


def check_unique(records: Iterable[Record], path: Path) -> None:
    """Raise ``ValueError`` naming the first question that occurs twice."""
    seen: set[tuple[str, str]] = set()
    for record in records:
        if record.key in seen:
            raise ValueError(f"{path}: question '{record.question_id}' of '{record.stream_id}' is recorded twice")
        seen.add(record.key)


def short_names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of ``paths`` that tell them apart, at least their last parts."""
    parts = [path.resolve().parts for path in paths]
    length = 1
    while len({names[-length:] for names in parts}) < len(set(parts)):
        length += 1
    return ["/".join(names[-length:]) for names in parts]


def _complete_size(path: Path) -> int:
    """Bytes up to and including the last line break."""
    return path.read_bytes().rfind(b"\n") + 1


def _parse(path: Path, number: int, line: bytes) -> Record:
    try:
        content = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} line {number} is not JSON ({error}); only the last line may be cut off") from error
    schema = content.get("schema")
    if schema not in READABLE_SCHEMAS:
        readable = " and ".join(map(str, READABLE_SCHEMAS))
        raise ValueError(f"{path} line {number}: record of schema {schema}, this version reads {readable}")
    unknown = set(content) - {f.name for f in fields(Record)}
    if unknown:
        raise ValueError(f"{path} line {number}: unknown fields {sorted(unknown)}")
    return Record(**content)


SUMMARY_FILE = "summary.json"


def write_summary(run_dir: Path, summary: dict[str, Any]) -> None:
    """Write ``summary.json``; its presence marks a run as finished."""
    write_text_atomically(run_dir / SUMMARY_FILE, json.dumps(summary, indent=2, allow_nan=False) + "\n")


def read_summary(run_dir: Path) -> dict[str, Any] | None:
    """The summary of a finished run, ``None`` for any other folder."""
    path = run_dir / SUMMARY_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def shard_path(run_dir: Path, rank: int, world_size: int) -> Path:
    """The file that process ``rank`` of ``world_size`` appends to."""
    return run_dir / (RECORDS_FILE if world_size == 1 else f"records.rank{rank}.jsonl")


def collect_records(run_dir: Path) -> list[Record]:
    """All records of a run folder after merging what several processes, also killed ones, left behind.

    A record that lies identically in two files comes from a merge that was cut off and counts once; two
    different records of one question raise ``ValueError``.
    """
    path = run_dir / RECORDS_FILE
    drop_torn_line(path)
    shards = sorted(run_dir.glob("records.rank*.jsonl"))
    if not shards:
        return read_records(path)
    # Whole lines are compared: the same record in two files is one that a merge, cut off, had already copied.
    lines = {record.to_line(): record for file in (path, *shards) for record in read_records(file)}
    records = list(lines.values())
    check_unique(records, run_dir)
    # In this order: a kill in between leaves every record in at least one file.
    write_records(path, records)
    for shard in shards:
        shard.unlink()
    return records

"""Reads the file of an offline W&B run with W&B's own message types.

The file is a LevelDB log: a header of seven bytes, then blocks of 32 KiB with chunks of (checksum, size, kind).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

HEADER_SIZE, BLOCK_SIZE, CHUNK_HEADER_SIZE = 7, 32768, 7
LAST_KINDS = (1, 4)  # a whole record, or the last part of one


def read_run(folder: Path) -> dict[str, Any]:
    """Settings, summary, names of files and artifacts, and exit code of the one offline run below ``folder``."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    found: dict[str, Any] = {"config": {}, "summary": {}, "artifacts": {}, "exit_code": None, "folder": path.parent}
    for data in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        _take(record, found)
    return found


def _take(record: wandb_internal_pb2.Record, found: dict[str, Any]) -> None:
    kind = record.WhichOneof("record_type")
    if kind in ("config", "run"):
        config = record.config if kind == "config" else record.run.config
        for item in config.update:
            found["config"][item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    elif kind == "summary":
        for item in record.summary.update:
            found["summary"][item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    elif kind == "history":
        for item in record.history.item:
            found["summary"].setdefault(item.key or "/".join(item.nested_key), json.loads(item.value_json))
    elif kind == "artifact":
        found["artifacts"][record.artifact.name] = [entry.path for entry in record.artifact.manifest.contents]
    elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
        artifact = record.request.log_artifact.artifact
        found["artifacts"][artifact.name] = [entry.path for entry in artifact.manifest.contents]
    elif kind == "exit":
        found["exit_code"] = record.exit.exit_code


def _records(data: bytes) -> Iterator[bytes]:
    assert data[:4] == b":W&B"
    place, parts = HEADER_SIZE, []
    while place + CHUNK_HEADER_SIZE <= len(data):
        left = BLOCK_SIZE - place % BLOCK_SIZE
        if left < CHUNK_HEADER_SIZE:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + CHUNK_HEADER_SIZE])
        place += CHUNK_HEADER_SIZE
        parts.append(data[place : place + size])
        place += size
        if kind in LAST_KINDS:
            yield b"".join(parts)
            parts = []

"""What makes two runs the same run: the settings and data that can change an answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from stc_lab.backbones.checkpoints import local_checkpoint
from stc_lab.config import canonical
from stc_lab.results.records import (
    BASELINE_DIR,
    DUPLICATE_FILE,
    IDENTITY_FILE,
    RECORDS_FILE,
    SUMMARY_FILE,
    write_text_atomically,
)
from stc_lab.types import Stream

DIGESTED_BYTES = 16 * 1024**2


def run_settings(cfg: DictConfig, streams: Sequence[Stream]) -> dict[str, Any]:
    """Everything that can change an answer, as a flat dictionary with dotted keys.

    That is the canonical configuration, a digest of the streams and their questions, and a digest of the
    checkpoint where it is the shipped one or a folder (one of the hub is known by its id and revision).
    """
    digests = {"data_digest": streams_digest(streams), "weights_digest": _weights_digest(cfg.backbone)}
    return _flat({**canonical(cfg), **digests})


def fingerprint(settings: Mapping[str, Any]) -> str:
    """SHA-256 over flat settings; the key of records, never a folder name."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def streams_digest(streams: Sequence[Stream]) -> str:
    """Digest of the streams' ids, questions and sizes of the video files; their folder does not matter."""
    digest = hashlib.sha256()
    for stream in sorted(streams, key=lambda stream: stream.stream_id):
        size = stream.video.stat().st_size if stream.video.is_file() else None
        digest.update(repr((stream.stream_id, stream.video.name, size, stream.questions)).encode())
    return digest.hexdigest()


def folder_digest(folder: Path) -> str:
    """Digest of the weights and settings in a checkpoint folder; of large files only size, head and tail count."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]):
        size = path.stat().st_size
        digest.update(repr((path.name, size)).encode())
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
    content = {"fingerprint": fingerprint(settings), "settings": dict(settings)}
    write_text_atomically(path, json.dumps(content, indent=2, default=str) + "\n")
    return content["fingerprint"]


def find_finished(sweep_dir: Path, wanted: str, besides: Path) -> Path | None:
    """A finished run with fingerprint ``wanted`` among the runs of a sweep and their baselines, but ``besides``."""
    folders = [path.parent for path in sorted(sweep_dir.glob(f"*/{IDENTITY_FILE}"))]
    folders += [path.parent for path in sorted(sweep_dir.glob(f"*/{BASELINE_DIR}/{IDENTITY_FILE}"))]
    for folder in folders:
        if folder.resolve() == besides.resolve() or not (folder / SUMMARY_FILE).is_file():
            continue
        if (folder / DUPLICATE_FILE).is_file():
            continue
        if json.loads((folder / IDENTITY_FILE).read_text(encoding="utf-8"))["fingerprint"] == wanted:
            return folder
    return None


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """``key: old -> new`` for every key of two flat dictionaries with another value."""
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


def _weights_digest(backbone: DictConfig) -> str | None:
    name = backbone.get("checkpoint")
    checkpoint = local_checkpoint(name, backbone.name, ()) if name else None
    return folder_digest(checkpoint.folder) if checkpoint else None


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + str(key)] = value
    return flat

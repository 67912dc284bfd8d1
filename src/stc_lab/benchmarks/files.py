"""Where the files of a benchmark lie, and what is not there."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from stc_lab.types import Stream

log = logging.getLogger(__name__)

NUM_NAMED = 3
ON_MISSING = ("error", "skip")


def find_annotation(root: str, patterns: Sequence[str]) -> Path:
    """The first file that matches a glob pattern below ``root``, or ``root`` itself if it is a file.

    Raises ``ValueError`` naming what was looked for.
    """
    folder = Path(root).expanduser()
    if folder.is_file():
        return folder
    for pattern in patterns:
        found = sorted(folder.glob(pattern)) if folder.is_dir() else []
        if found:
            return found[0]
    problem = "no such folder" if not folder.is_dir() else f"no {' or '.join(patterns)} in it"
    raise ValueError(f"dataset.root={root}: {problem}; it is the folder with the official annotation files")


def video_folder(videos: str) -> Path:
    """The folder of the videos. Raises ``ValueError`` when there is none."""
    folder = Path(videos).expanduser()
    if not folder.is_dir():
        raise ValueError(f"dataset.videos={videos}: no such folder; it is the folder with the official videos")
    return folder


def find_video(folder: Path, candidates: Sequence[str]) -> Path:
    """The first of the relative paths that exists in ``folder``; the first of all when none does."""
    paths = [folder / candidate for candidate in candidates]
    return next((path for path in paths if path.is_file()), paths[0])


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises ``ValueError`` when it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"dataset.root: {path} is not JSON: {error}") from error


def report_missing(streams: Iterable[Stream], folder: Path, missing: str) -> None:
    """Say how many videos are not there, before anything runs.

    ``missing=error`` raises ``ValueError``; with ``skip`` it is a warning, and their questions will be recorded as
    failed.
    """
    streams = list(streams)
    absent = [stream for stream in streams if not stream.video.is_file()]
    if not absent:
        return
    num_questions = sum(len(stream.questions) for stream in streams)
    num_lost = sum(len(stream.questions) for stream in absent)
    named = ", ".join(str(stream.video) for stream in absent[:NUM_NAMED])
    counts = f"{len(absent)} of {len(streams)} videos are missing ({num_lost} of {num_questions} questions)"
    more = ", ..." if len(absent) > NUM_NAMED else ""
    if missing == "error":
        raise ValueError(
            f"dataset.missing=error: {counts} in {folder}: {named}{more}; put them there, or set dataset.missing=skip "
            f"to record their questions as failed"
        )
    log.warning("%s in %s: %s%s; their questions will be recorded as failed", counts, folder, named, more)

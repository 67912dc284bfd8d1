"""Pictures that runs have left (token maps), carried inside the page."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stc_lab.results.runs import Run

FOLDER = "token_maps"
KINDS = {".png": "image/png", ".gif": "image/gif", ".mp4": "video/mp4"}
LARGEST_BYTES = 4 * 1024**2


@dataclass(frozen=True)
class Picture:
    """``data``: a ``data:`` address; ``is_video`` tells a film from a picture."""

    run: str
    title: str
    data: str
    is_video: bool


def token_maps(runs: Sequence[Run], limit: int) -> list[Picture]:
    """Up to ``limit`` pictures, in turn from each run, so that few of them show many methods.

    Files above ``LARGEST_BYTES`` are left out: a page that nobody can open shows nothing.
    """
    queues = [list(_files(run)) for run in runs]
    turns = [(run, queue[turn]) for turn in range(limit) for run, queue in zip(runs, queues, strict=True)
             if turn < len(queue)]  # fmt: skip
    return [_picture(run, path) for run, path in turns[:limit]]


def _files(run: Run) -> Iterator[Path]:
    """One file per map: a strip (png) is preferred to the film of the same name."""
    folder, seen = run.folder / FOLDER, set()
    for suffix in KINDS:
        for path in sorted(folder.rglob(f"*{suffix}")) if folder.is_dir() else ():
            if path.stem not in seen and path.stat().st_size <= LARGEST_BYTES:
                seen.add(path.stem)
                yield path


def _picture(run: Run, path: Path) -> Picture:
    kind = KINDS[path.suffix]
    data = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    return Picture(run.name, path.stem, data, kind.startswith("video"))

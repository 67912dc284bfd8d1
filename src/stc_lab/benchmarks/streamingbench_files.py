"""Reading the annotation files of StreamingBench: the repository's JSON and the hub's CSV."""

from __future__ import annotations

import ast
import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stc_lab.benchmarks.files import read_json

SAMPLE = re.compile(r"sample_(\d+)")
HUB_ID = re.compile(r"_(?:sample_)?(\d+)_(\d+)$")


@dataclass(frozen=True)
class Row:
    """A question as annotated. ``sample``: number of the video in its part; ``number``: of the question in it.

    ``video_path`` is empty in the hub's files, which name videos by their sample only.
    """

    sample: int
    number: int
    content: Mapping[str, Any]
    video_path: str = ""

    @property
    def question_id(self) -> str:
        """The same for both kinds of files: ``sample_348_2`` is the second question about sample 348."""
        return f"sample_{self.sample}_{self.number}"

    def candidates(self, part: str) -> tuple[str, ...]:
        """Where the video may lie: as annotated, as renamed by the official script, or as unpacked from the hub."""
        renamed = f"sample_{self.sample}_{part}.mp4"
        unpacked = f"sample_{self.sample}/video.mp4"
        official = [self.video_path.removeprefix("./")] if self.video_path else []
        return (*official, renamed, f"videos/{renamed}", unpacked, f"{part}/{unpacked}")


def read_rows(path: Path) -> list[Row]:
    """All questions in file order, numbered within their video from 1 on. Raises ``ValueError`` for another file."""
    return list(_hub_rows(path)) if path.suffix == ".csv" else list(_repository_rows(path))


def seconds(time_stamp: str) -> float:
    """Stream time of ``00:03:10``, ``0:03:10`` or ``03:10``."""
    return float(sum(int(part) * 60**power for power, part in enumerate(reversed(time_stamp.split(":")))))


def _repository_rows(path: Path) -> Iterator[Row]:
    counts: Counter[int] = Counter()
    for entry in read_json(path):
        for part in entry if isinstance(entry, list) else [entry]:
            sample = int(SAMPLE.search(part["video_path"])[1])
            for content in part["questions"]:
                counts[sample] += 1
                yield Row(sample, counts[sample], content, part["video_path"])


def _hub_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        for line, content in enumerate(csv.DictReader(file), 2):
            match = HUB_ID.search(content.get("question_id") or "")
            if match is None:
                raise ValueError(f"dataset.root: {path} line {line}: no sample number in its question_id")
            yield Row(int(match[1]), int(match[2]), {**content, "options": _listed(content.get("options"))})


def _listed(text: str | None) -> list[str]:
    """The options column: a Python list in quotes."""
    return [str(option) for option in ast.literal_eval(text)] if text else []

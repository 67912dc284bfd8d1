"""``dataset=videomme``: Video-MME (arXiv:2405.21075), short, medium and long videos, with or without subtitles."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from stc_lab.benchmarks import prompts
from stc_lab.benchmarks.files import find_annotation
from stc_lab.benchmarks.official import Item, OfficialBenchmark
from stc_lab.benchmarks.options import plain
from stc_lab.benchmarks.subtitles import read_subtitles, spoken_at_frames
from stc_lab.types import Question

log = logging.getLogger(__name__)

SUBTITLES = ("none", "frames", "all")


@dataclass(frozen=True, kw_only=True)
class VideoMME(OfficialBenchmark):
    """2,700 questions about 900 videos, three each, asked at the end; groups are short, medium and long.

    ``subtitles``: ``none``; ``frames``: those on the screen in the frames that are read, as the benchmark asks for;
    ``all``. They are read from ``subtitle_files``, ``VIDEO_ID.srt`` each; videos without a file are asked without.
    Subtitles are part of official prompts only.
    """

    subtitles: Literal["none", "frames", "all"] = "none"
    subtitle_files: str | None = None
    fps: float = 0.5
    name: str = "videomme"

    annotations: ClassVar[tuple[str, ...]] = (
        "test-00000-of-00001.parquet", "*/test-00000-of-00001.parquet", "*.parquet",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.subtitles not in SUBTITLES:
            raise ValueError(f"dataset.subtitles={self.subtitles}: must be one of {', '.join(SUBTITLES)}")
        if self.subtitles != "none" and self.subtitle_files is None:
            raise ValueError(f"dataset.subtitles={self.subtitles}: give the folder as dataset.subtitle_files=DIR")
        if self.subtitles != "none" and self.prompt == "backbone":
            raise ValueError(
                f"dataset.subtitles={self.subtitles} needs dataset.prompt=official: the backbone's own form of a "
                f"question has no place for subtitles"
            )

    def check_files(self) -> None:
        """See :meth:`OfficialBenchmark.check_files`; also the folder of subtitles, where they are wanted."""
        super().check_files()
        if self.subtitles != "none" and not Path(self.subtitle_files).expanduser().is_dir():
            raise ValueError(f"dataset.subtitle_files={self.subtitle_files}: no such folder")

    def items(self) -> Iterator[Item]:
        """One item per question, with the official ids."""
        told: dict[str, str] = {}
        for row in _read_table(find_annotation(self.root, self.annotations)):
            video_id = row["videoID"]
            if video_id not in told:
                told[video_id] = self._subtitles_of(video_id)
            candidates = (f"{video_id}.mp4", f"data/{video_id}.mp4", f"videos/{video_id}.mp4")
            yield Item(video_id, candidates, _question(row, told[video_id]))
        if self.subtitles != "none":
            log.info("%d of %d videos have subtitles", sum(map(bool, told.values())), len(told))

    def _subtitles_of(self, video_id: str) -> str:
        if self.subtitles == "none":
            return ""
        path = Path(self.subtitle_files).expanduser() / f"{video_id}.srt"
        cues = read_subtitles(path) if path.is_file() else []
        if self.subtitles == "frames":
            cues = spoken_at_frames(cues, self.fps)
        return "\n".join(cue.text for cue in cues)


def _question(row: Mapping[str, Any], subtitles: str) -> Question:
    options = [str(option) for option in row["options"]]
    return Question(
        question_id=row["question_id"],
        time_s=math.inf,
        text=row["question"],
        options=plain(options),
        answer=row["answer"],
        task=row["task_type"],
        group=row["duration"],
        meta={"domain": row["domain"], "sub_category": row["sub_category"], "has_subtitles": bool(subtitles)},
        prompt=prompts.videomme(row["question"], options, subtitles),
    )


def _read_table(path: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ValueError("dataset=videomme reads a parquet file: pip install pyarrow") from error
    return parquet.read_table(path).to_pylist()

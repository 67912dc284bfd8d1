"""``dataset=folder``: the user's own videos, with a question file or one generic question per video."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from stc_lab.benchmarks.base import check_limit_and_fps, score_answer
from stc_lab.benchmarks.files import ON_MISSING, report_missing
from stc_lab.benchmarks.folder_rows import question_of, read_rows
from stc_lab.types import Answer, Question, Stream

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
GENERIC_QUESTION = "What happens in the video?"


@dataclass(frozen=True)
class FolderBenchmark:
    """Videos of a folder (or one video file), sampled at ``fps``.

    ``questions`` is a JSON Lines file, one object per question, or a CSV file with the same columns: ``video`` (path
    relative to the folder) and ``question`` are required; ``time_s`` (default: the end of the video), ``options``
    (list of texts; in CSV separated by ``|``), ``answer`` (letter, or text without options; none: not scored),
    ``task``, ``group`` and ``question_id`` are optional. Without the file every video gets one generic question at its
    end. ``missing``: what to do about videos that the file names and that are not there.
    """

    videos: str
    questions: str | None = None
    limit: int | None = None
    fps: float = 1.0
    missing: Literal["error", "skip"] = "skip"
    name: str = "folder"

    judges_texts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_limit_and_fps(self.limit, self.fps)
        if self.missing not in ON_MISSING:
            raise ValueError(f"dataset.missing={self.missing}: must be one of {', '.join(ON_MISSING)}")

    def check_files(self) -> None:
        """Raise ``ValueError`` when the folder, the video file or the question file is not there."""
        root = Path(self.videos).expanduser()
        if not root.exists():
            raise ValueError(f"dataset.videos: no such folder or video file: {root}")
        if self.questions is not None and not Path(self.questions).expanduser().is_file():
            raise ValueError(f"dataset.questions: no such file: {self.questions}")

    def streams(self) -> list[Stream]:
        """One stream per video in the order of their names. Raises ``ValueError`` for a missing folder or file."""
        self.check_files()
        root = Path(self.videos).expanduser()
        streams = self._generic_streams(root) if self.questions is None else self._asked_streams(root)
        report_missing(streams[: self.limit], root, self.missing)
        return streams[: self.limit]

    def score(self, question: Question, answer: Answer) -> bool | None:
        """Exact letter, or equal text without options; ``None`` for questions without an answer."""
        return score_answer(question, answer)

    def _generic_streams(self, root: Path) -> list[Stream]:
        videos = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES)
        if not videos:
            raise ValueError(f"dataset.videos: no video ({', '.join(VIDEO_SUFFIXES)}) in {root}")
        base = root.parent if root.is_file() else root
        names = [video.relative_to(base).as_posix() for video in videos]
        return [
            Stream(name, video, (Question(f"{name}#0", math.inf, GENERIC_QUESTION, task="generic"),))
            for name, video in zip(names, videos, strict=True)
        ]

    def _asked_streams(self, root: Path) -> list[Stream]:
        base = root.parent if root.is_file() else root
        questions: dict[str, list[Question]] = defaultdict(list)
        for number, row in read_rows(Path(self.questions).expanduser()):
            name = row["video"]
            questions[name].append(question_of(row, f"{name}#{len(questions[name])}", number))
        return [Stream(name, base / name, tuple(questions[name])) for name in sorted(questions)]

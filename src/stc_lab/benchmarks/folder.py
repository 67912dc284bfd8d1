"""``dataset=folder``: the user's own videos, with a question file or one generic question per video."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from stc_lab.benchmarks.base import check_limit_and_fps, score_answer
from stc_lab.types import Answer, Question, Stream

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
GENERIC_QUESTION = "What happens in the video?"
FIELDS = {"video", "time_s", "question", "options", "answer", "task", "group", "question_id"}


@dataclass(frozen=True)
class FolderBenchmark:
    """Videos of a folder (or one video file), sampled at ``fps``.

    ``questions`` is a JSON Lines file, one object per question: ``video`` (path relative to the folder) and
    ``question`` are required; ``time_s`` (default: the end of the video), ``options`` (list of texts),
    ``answer`` (letter, or text without options; none: not scored), ``task``, ``group`` and ``question_id``
    are optional. Without the file every video gets one generic question at its end.
    """

    videos: str
    questions: str | None = None
    limit: int | None = None
    fps: float = 1.0
    name: str = "folder"

    def __post_init__(self) -> None:
        check_limit_and_fps(self.limit, self.fps)

    def streams(self) -> list[Stream]:
        """One stream per video in the order of their names. Raises ``ValueError`` for a missing folder or file."""
        root = Path(self.videos).expanduser()
        if not root.exists():
            raise ValueError(f"dataset.videos: no such folder or video file: {root}")
        streams = self._generic_streams(root) if self.questions is None else self._asked_streams(root)
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
        for number, row in _rows(Path(self.questions).expanduser()):
            name = row["video"]
            questions[name].append(_question(row, f"{name}#{len(questions[name])}", number))
        return [Stream(name, base / name, tuple(questions[name])) for name in sorted(questions)]


def _rows(path: Path) -> list[tuple[int, dict]]:
    if not path.is_file():
        raise ValueError(f"dataset.questions: no such file: {path}")
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [(number, _row(path, number, line)) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise ValueError(f"dataset.questions: no question in {path}")
    return rows


def _row(path: Path, number: int, line: str) -> dict:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"dataset.questions: {path} line {number} is not JSON: {error}") from error
    missing = {"video", "question"} - set(row)
    unknown = set(row) - FIELDS
    if missing or unknown:
        problem = f"misses {sorted(missing)}" if missing else f"has unknown fields {sorted(unknown)}"
        raise ValueError(f"dataset.questions: {path} line {number} {problem}; fields are {sorted(FIELDS)}")
    return row


def _question(row: dict, default_id: str, number: int) -> Question:
    time_s = row.get("time_s")
    question = Question(
        question_id=str(row.get("question_id", default_id)),
        time_s=math.inf if time_s is None else float(time_s),
        text=row["question"],
        options=tuple(row.get("options") or ()),
        answer=str(row.get("answer") or ""),
        task=row.get("task") or "",
        group=row.get("group") or "",
    )
    if question.options and question.answer and question.answer not in question.letters:
        raise ValueError(
            f"dataset.questions: line {number}: answer '{question.answer}' is none of {', '.join(question.letters)}"
        )
    return question

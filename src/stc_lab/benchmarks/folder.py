"""``dataset=folder``: the user's own videos, with a question file or one generic question per video."""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from stc_lab.benchmarks.base import ON_MISSING, check_choice, check_limit_and_fps, report_missing, score_answer
from stc_lab.benchmarks.rules import Rule
from stc_lab.types import Answer, Question, Stream

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
GENERIC_QUESTION = "What happens in the video?"
FIELDS = ("video", "time_s", "question", "options", "answer", "task", "group", "question_id")
SEPARATOR = "|"
Row = dict[str, Any]


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

    rule: ClassVar[Rule | None] = None
    judges_texts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_limit_and_fps(self.limit, self.fps)
        check_choice("missing", self.missing, ON_MISSING)

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


# The question file: JSON Lines, or CSV with the same columns.


def read_rows(path: Path) -> list[tuple[int, Row]]:
    """Line number and content of every question. Raises ``ValueError`` naming file, line and mistake."""
    if not path.is_file():
        raise ValueError(f"dataset.questions: no such file: {path}")
    rows = list(_csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path))
    for number, row in rows:
        _check_fields(path, number, row)
    if not rows:
        raise ValueError(f"dataset.questions: no question in {path}")
    return rows


def question_of(row: Row, default_id: str, number: int) -> Question:
    """The question of line ``number``. Raises ``ValueError`` for a time or a gold letter that cannot be."""
    question = Question(
        question_id=str(row.get("question_id") or default_id),
        time_s=_time_s(row.get("time_s"), number),
        text=row["question"],
        options=tuple(str(option) for option in row.get("options") or ()),
        answer=str(row.get("answer") or ""),
        task=row.get("task") or "",
        group=row.get("group") or "",
    )
    if question.options and question.answer and question.answer not in question.letters:
        raise ValueError(
            f"dataset.questions: line {number}: answer '{question.answer}' is none of {', '.join(question.letters)}"
        )
    return question


def _json_rows(path: Path) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"dataset.questions: {path} line {number} is not JSON: {error}") from error


def _csv_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Empty cells count as absent; options stand in one cell, separated by ``|``."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            if None in row:
                raise ValueError(f"dataset.questions: {path} line {reader.line_num} has more cells than the head line")
            given = {name: cell for name, cell in row.items() if cell not in (None, "")}
            if "options" in given:
                given["options"] = [option.strip() for option in given["options"].split(SEPARATOR)]
            if given:
                yield reader.line_num, given


def _check_fields(path: Path, number: int, row: Row) -> None:
    missing, unknown = {"video", "question"} - set(row), set(row) - set(FIELDS)
    if missing or unknown:
        problem = f"misses {sorted(missing)}" if missing else f"has unknown fields {sorted(unknown)}"
        raise ValueError(f"dataset.questions: {path} line {number} {problem}; fields are {sorted(FIELDS)}")


def _time_s(value: Any, number: int) -> float:
    if value is None:
        return math.inf
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"dataset.questions: line {number}: time_s={value!r}: must be seconds") from error

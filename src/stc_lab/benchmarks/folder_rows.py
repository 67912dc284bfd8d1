"""Question files of ``dataset=folder``: JSON Lines, or CSV with the same columns."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stc_lab.types import Question

FIELDS = ("video", "time_s", "question", "options", "answer", "task", "group", "question_id")
SEPARATOR = "|"
Row = dict[str, Any]


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

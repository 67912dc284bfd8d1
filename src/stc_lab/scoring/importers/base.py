"""Published predictions on their way to records."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stc_lab.scoring.marks import REPEATED

MISSING: Any = object()
"""Stands for a response that the file does not have at all."""


@dataclass(frozen=True)
class Prediction:
    """One question of a prediction file. ``response`` is what the file says, whatever that is; ``text`` the answer.

    ``text`` is ``None`` where there is none, for the ``reason`` given. ``time_s`` is ``None`` where the file does not
    tell the time. ``details``: what else a rule needs to know of the answer.
    """

    stream_id: str
    question_id: str
    task: str
    group: str
    question: str
    answer: str
    text: str | None
    reason: str | None = None
    time_s: float | None = None
    options: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Imported:
    """What prediction files say. ``name`` of the model, ``notes`` for the reader of the result."""

    benchmark: str
    name: str
    files: tuple[Path, ...]
    predictions: tuple[Prediction, ...]
    notes: tuple[str, ...] = ()


def text_of(response: Any) -> tuple[str | None, str | None]:
    """``(text, None)``, or ``(None, reason)`` for anything that is not a text with something in it."""
    if isinstance(response, str):
        return (response, None) if response.strip() else (None, "the response is empty")
    if response is MISSING:
        return None, "there is no response"
    if response is None:
        return None, "the response is null"
    kind = {list: "a list", dict: "an object", bool: "true or false", int: "a number", float: "a number"}
    return None, f"the response is {kind[type(response)]}, not a text"


def load_json(path: Path) -> Any:
    """The content of a JSON file. Raises ``ValueError`` when it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"predictions: {path} is not JSON ({error}); is it a whole file?") from error


def json_files(path: Path, what: str) -> list[Path]:
    """The JSON files of a folder in the order of their names, or the file itself.

    ``what`` says what is looked for. Raises ``ValueError`` when nothing is there, naming the folders below it that
    would do.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"predictions={path}: no such file or folder; give {what}")
    files = sorted(file for file in path.glob("*.json") if not file.name.startswith("."))
    if not files:
        below = sorted({file.parent.name for file in path.glob("*/*.json")})
        hint = f"; it holds the folders {', '.join(below)}: give one of them" if below else f"; give {what}"
        raise ValueError(f"predictions={path}: no JSON file in it{hint}")
    return files


def with_unique_ids(predictions: Iterable[Prediction]) -> tuple[tuple[Prediction, ...], tuple[str, ...]]:
    """Give the second answer to a question the id ``ID#2`` and so on, and note which questions that were."""
    counts: Counter[str] = Counter()
    unique = []
    for prediction in predictions:
        counts[prediction.question_id] += 1
        number = counts[prediction.question_id]
        name = prediction.question_id if number == 1 else f"{prediction.question_id}#{number}"
        unique.append(replace(prediction, question_id=name, meta={**prediction.meta, **_repeated(number)}))
    twice = [name for name, number in counts.items() if number > 1]
    if not twice:
        return tuple(unique), ()
    note = f"{len(twice)} questions have several answers, which all count, as officially: {', '.join(twice)}"
    return tuple(unique), (note,)


def _repeated(number: int) -> dict[str, bool]:
    return {REPEATED: True} if number > 1 else {}

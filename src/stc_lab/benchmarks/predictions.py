"""Published prediction files on their way to records, and held against the annotation file."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from stc_lab.benchmarks import all_benchmarks
from stc_lab.types import Question

READER = "imported"
"""``reader`` of records that were imported; the next two are marks in their ``meta``."""
ABSENT = "absent"
"""A question that the prediction files do not have, known from the annotation file."""
REPEATED = "repeated"
"""A second answer to a question."""
NO_ENTRY = "the prediction files do not have this question"

MISSING: Any = object()
"""Stands for a response that the file does not have at all."""
KINDS = {list: "a list", dict: "an object", bool: "true or false", int: "a number", float: "a number"}


@dataclass(frozen=True)
class Prediction:
    """One question of a prediction file, with the ``text`` of the answer.

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
    """What prediction files say. ``name`` of the model, ``notes`` for the reader of the result.

    ``has_official_ids``: whether the files tell the ids of their questions.
    """

    benchmark: str
    name: str
    files: tuple[Path, ...]
    predictions: tuple[Prediction, ...]
    notes: tuple[str, ...] = ()
    has_official_ids: bool = False


@runtime_checkable
class ReadsPredictions(Protocol):
    """A benchmark whose official script leaves prediction files, which others publish. Both are class methods."""

    @classmethod
    def is_prediction_file(cls, content: Any) -> bool:
        """Whether the content of a JSON file has the layout of its prediction files."""
        ...

    @classmethod
    def read_predictions(cls, path: Path, model: str | None = None, unwrap_lists: bool = False) -> Imported:
        """All answers in a file or folder. Raises ``ValueError`` naming what is wrong with it.

        ``model``: the key under which the answers stand, for files with those of several models. ``unwrap_lists``:
        read a list with one text as this text.
        """
        ...


def importable_benchmarks() -> dict[str, type[ReadsPredictions]]:
    """The benchmarks whose prediction files are understood, by name."""
    return {name: kind for name, kind in all_benchmarks().items() if issubclass(kind, ReadsPredictions)}


def read_predictions(benchmark: str, path: Path, model: str | None = None, unwrap_lists: bool = False) -> Imported:
    """The answers in the prediction files of a benchmark. Raises ``ValueError`` naming what is wrong with them."""
    known = importable_benchmarks()
    if benchmark not in known:
        raise ValueError(f"benchmark={benchmark}: must be one of {', '.join(known)}")
    return known[benchmark].read_predictions(path, model, unwrap_lists)


def benchmark_of(path: Path) -> str:
    """The benchmark that prediction files answer, from their layout. Raises ``ValueError`` when they answer none."""
    known = importable_benchmarks()
    for file in json_files(path, "a run folder, or official prediction files"):
        content = load_json(file)
        for name, kind in known.items():
            if kind.is_prediction_file(content):
                return name
    raise ValueError(f"{path}: neither a run folder nor prediction files of {', '.join(known)}")


# What importers share: files, texts, ids.


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


def load_json(path: Path) -> Any:
    """The content of a JSON file. Raises ``ValueError`` when it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"predictions: {path} is not JSON ({error}); is it a whole file?") from error


def text_of(response: Any) -> tuple[str | None, str | None]:
    """``(text, None)``, or ``(None, reason)`` for anything that is not a text with something in it."""
    if isinstance(response, str):
        return (response, None) if response.strip() else (None, "the response is empty")
    if response is MISSING:
        return None, "there is no response"
    if response is None:
        return None, "the response is null"
    return None, f"the response is {KINDS[type(response)]}, not a text"


def with_unique_ids(predictions: Iterable[Prediction]) -> tuple[tuple[Prediction, ...], tuple[str, ...]]:
    """Give the second answer to a question the id ``ID#2`` and so on, and note which questions that were."""
    counts: Counter[str] = Counter()
    unique = []
    for prediction in predictions:
        counts[prediction.question_id] += 1
        number = counts[prediction.question_id]
        if number > 1:
            name, meta = f"{prediction.question_id}#{number}", {**prediction.meta, REPEATED: True}
            prediction = replace(prediction, question_id=name, meta=meta)
        unique.append(prediction)
    twice = [name for name, number in counts.items() if number > 1]
    if not twice:
        return tuple(unique), ()
    note = f"{len(twice)} questions have several answers, which all count, as officially: {', '.join(twice)}"
    return tuple(unique), (note,)


# Predictions beside the annotation file: the facts they lack, and the questions they do not have.

Key = tuple[Any, ...]


def expected_questions(benchmark: str, annotations: str) -> list[tuple[str, Question]]:
    """Stream id and question for all questions of an annotation file or the folder it lies in.

    Raises ``ValueError`` when it is not there.
    """
    dataset = all_benchmarks()[benchmark]
    try:
        return [(item.stream_id, item.question) for item in dataset(root=annotations, videos="").items()]
    except ValueError as error:
        raise ValueError(str(error).replace("dataset.root", "annotations")) from error
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"annotations={annotations}: not the annotation file of {benchmark} ({error!r})") from error


def completed(imported: Imported, expected: Sequence[tuple[str, Question]]) -> Imported:
    """The predictions with what the annotation file says about their questions, and those that are absent.

    Ids, streams, times and options become those of the annotation file, so that the records match those of a run;
    gold answers stay as the prediction file has them, with a note where they differ.
    """
    # Without official ids a question is known by its video, time and text.
    by_id = imported.has_official_ids
    waiting: dict[Key, list[tuple[str, Question]]] = defaultdict(list)
    for stream_id, question in expected:
        key = (question.question_id,) if by_id else (stream_id, question.time_s, question.text)
        waiting[key].append((stream_id, question))
    # Equal questions are matched in the order of the files; a second answer finds nothing left.
    matches = []
    for prediction in imported.predictions:
        by_content = prediction.stream_id, prediction.time_s, prediction.question
        queue = waiting.get((prediction.question_id,) if by_id else by_content)
        matches.append((prediction, queue.pop(0) if queue else None))
    unknown = [p.question_id for p, asked in matches if asked is None and not p.meta.get(REPEATED)]
    golds = [p.question_id for p, asked in matches if asked and asked[1].answer != p.answer]
    notes = _note(unknown, "are not in the annotation file")
    notes += _note(golds, "have another gold answer than in the annotation file; the prediction file's is used")
    known = [_as_annotated(p, *asked) if asked else p for p, asked in matches]
    absent = [_absent(*asked) for left in waiting.values() for asked in left]
    return replace(imported, predictions=(*known, *absent), notes=(*imported.notes, *notes))


def _as_annotated(prediction: Prediction, stream_id: str, question: Question) -> Prediction:
    return replace(
        prediction,
        stream_id=stream_id,
        question_id=question.question_id,
        question=question.text,
        time_s=question.time_s,
        options=question.options,
        meta={**question.meta, **prediction.meta},
    )


def _absent(stream_id: str, question: Question) -> Prediction:
    return Prediction(
        stream_id=stream_id,
        question_id=question.question_id,
        task=question.task,
        group=question.group,
        question=question.text,
        answer=question.answer,
        text=None,
        reason=NO_ENTRY,
        time_s=question.time_s,
        options=question.options,
        meta={**question.meta, ABSENT: True},
    )


def _note(ids: Sequence[str], what: str) -> list[str]:
    return [f"{len(ids)} questions {what}: {', '.join(ids)}"] if ids else []

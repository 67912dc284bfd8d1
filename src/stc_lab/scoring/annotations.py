"""Prediction files held against the annotation file: the facts they lack, and the questions they do not have."""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stc_lab.scoring.importers.base import Imported, Prediction
from stc_lab.scoring.marks import ABSENT, NO_ENTRY, REPEATED

if TYPE_CHECKING:
    from stc_lab.types import Question

READERS = {
    "ovobench": ("stc_lab.benchmarks.ovobench", "OVOBench"),
    "streamingbench": ("stc_lab.benchmarks.streamingbench", "StreamingBench"),
    "streamingbench_sqa": ("stc_lab.benchmarks.streamingbench_sqa", "StreamingBenchSQA"),
    "streamingbench_proactive": ("stc_lab.benchmarks.streamingbench_proactive", "StreamingBenchProactive"),
}
Asked = tuple[str, "Question"]
Key = tuple[Any, ...]


def expected_questions(benchmark: str, annotations: str) -> list[Asked]:
    """Stream id and question for all questions of an annotation file or the folder it lies in.

    Raises ``ValueError`` when it is not there.
    """
    module, name = READERS[benchmark]
    dataset = getattr(importlib.import_module(module), name)
    try:
        return [(item.stream_id, item.question) for item in dataset(root=annotations, videos="").items()]
    except ValueError as error:
        raise ValueError(str(error).replace("dataset.root", "annotations")) from error
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"annotations={annotations}: not the annotation file of {benchmark} ({error!r})") from error


def completed(imported: Imported, expected: Sequence[Asked]) -> Imported:
    """The predictions with what the annotation file says about their questions, and those that are absent.

    Ids, streams, times and options become those of the annotation file, so that the records match those of a run;
    gold answers stay as the prediction file has them, with a note where they differ.
    """
    key = _key_by_id if imported.benchmark == "ovobench" else _key_by_content
    waiting: dict[Key, list[Asked]] = defaultdict(list)
    for stream_id, question in expected:
        waiting[key(stream_id, question)].append((stream_id, question))
    queues = [(p, waiting.get(key(p.stream_id, p))) for p in imported.predictions]
    matches = [(p, queue.pop(0) if queue else None) for p, queue in queues]
    unknown = [p.question_id for p, asked in matches if asked is None and not p.meta.get(REPEATED)]
    golds = [p.question_id for p, asked in matches if asked and asked[1].answer != p.answer]
    notes = _note(unknown, "are not in the annotation file")
    notes += _note(golds, "have another gold answer than in the annotation file; the prediction file's is used")
    known = [_as_annotated(p, *asked) if asked else p for p, asked in matches]
    absent = [_absent(*asked) for left in waiting.values() for asked in left]
    return replace(imported, predictions=(*known, *absent), notes=(*imported.notes, *notes))


def _key_by_id(stream_id: str, asked: Prediction | Question) -> Key:
    return (asked.question_id,)


def _key_by_content(stream_id: str, asked: Prediction | Question) -> Key:
    return stream_id, asked.time_s, asked.text if hasattr(asked, "polling") else asked.question


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

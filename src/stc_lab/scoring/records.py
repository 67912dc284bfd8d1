"""From imported predictions to records, like those of a run."""

from __future__ import annotations

from stc_lab.results.records import Record
from stc_lab.scoring.importers.base import Imported, Prediction
from stc_lab.scoring.marks import ABSENT, READER
from stc_lab.scoring.rule import Rule


def to_records(imported: Imported, rule: Rule, fingerprint: str) -> list[Record]:
    """One record per prediction, in the order of the files.

    ``correct`` is the verdict of the official rule; no text is wrong. ``prediction`` is our strict reading; where it
    judges otherwise, ``details`` says so.
    """
    return [_record(prediction, rule, fingerprint) for prediction in imported.predictions]


def _record(prediction: Prediction, rule: Rule, fingerprint: str) -> Record:
    record = Record(
        fingerprint=fingerprint,
        stream_id=prediction.stream_id,
        question_id=prediction.question_id,
        task=prediction.task,
        group=prediction.group,
        time_s=prediction.time_s,
        question=prediction.question,
        options=list(prediction.options),
        answer=prediction.answer,
        status=_status(prediction),
        reason=prediction.reason,
        correct=False,
        reader=READER,
        meta=dict(prediction.meta),
        details=dict(prediction.details),
    )
    if prediction.text is not None:
        _judge(record, prediction.text, rule)
    return record


def _status(prediction: Prediction) -> str:
    if prediction.meta.get(ABSENT):
        return "failed"
    return "unanswered" if prediction.text is None else "answered"


def _judge(record: Record, text: str, rule: Rule) -> None:
    record.text = text
    record.prediction = rule.strict(record, text)
    record.correct = rule.official(record, text, record.details)
    strictly_right = rule.is_strictly_right(record, text, record.details)
    if strictly_right != record.correct:
        record.details["strictly_right"] = strictly_right

"""Whether imported predictions answer the whole benchmark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from stc_lab.results.records import Record
from stc_lab.scoring.marks import ABSENT, READER, REPEATED
from stc_lab.scoring.rule import Rule


def is_imported(records: Sequence[Record]) -> bool:
    """Whether the records come from prediction files; those of a run know what they were to answer."""
    return any(record.reader == READER for record in records)


def expected_sizes(records: Sequence[Record], rule: Rule) -> Mapping[str, int] | None:
    """Questions per task that imported records should answer; ``None`` where one of the tasks is not known."""
    is_known = not {record.task for record in records} - set(rule.sizes)
    return rule.sizes if is_imported(records) and is_known else None


def completeness(records: Sequence[Record], sizes: Mapping[str, int] | None) -> dict[str, Any]:
    """How many questions there are and how many of them were answered; with ``None``, as far as the files tell.

    A task that no record belongs to is absent as a whole. ``not_answered`` lists the questions that the files have
    without an answer, and why.
    """
    entries = [r for r in records if not r.meta.get(REPEATED) and not r.meta.get(ABSENT)]
    present = Counter(record.task for record in entries)
    missing = {r.question_id: r.reason for r in entries if r.status != "answered"}
    absent = {task: size - present[task] for task, size in (sizes or {}).items() if present[task] < size}
    return {
        "is_complete": None if sizes is None else not missing and not absent,
        "num_expected": None if sizes is None else sum(sizes.values()),
        "num_answered": len(entries) - len(missing),
        "num_without_answer": len(missing),
        "num_absent": None if sizes is None else sum(absent.values()),
        "absent_by_task": absent,
        "not_answered": missing,
    }

"""What the records of a benchmark say under its official rule, and under our strict reading."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from stc_lab.benchmarks.predictions import ABSENT, READER, REPEATED
from stc_lab.benchmarks.rules import Rule
from stc_lab.results.records import Record
from stc_lab.results.statistics import Average, Cells, accuracy_summary


class Verdicts:
    """Columns [N] over the records that have a gold answer: right officially, right strictly, counted officially.

    ``correct`` of a record is the verdict of the official rule.
    """

    def __init__(self, records: Sequence[Record], rule: Rule) -> None:
        self.records = [record for record in records if record.correct is not None]
        self.rule = rule
        self.average = Average(rule.average, rule.groups)

    @cached_property
    def official(self) -> np.ndarray:
        """Whether the official rule calls it right."""
        return np.array([record.correct for record in self.records], dtype=bool)

    @cached_property
    def strict(self) -> np.ndarray:
        """Whether our strict reading is the gold answer."""
        rule = self.rule
        return np.array([rule.is_strictly_right(r, r.text, r.details) for r in self.records], dtype=bool)

    @cached_property
    def unread(self) -> np.ndarray:
        """Whether something was said that cannot be read strictly."""
        return np.array([bool(r.text) and self.rule.strict(r, r.text) is None for r in self.records], dtype=bool)

    @cached_property
    def others(self) -> Mapping[str, np.ndarray]:
        """Verdicts of the rule's further judges."""
        return {
            name: np.array([bool(r.text) and judge(r, r.text, r.details) for r in self.records], dtype=bool)
            for name, judge in self.rule.others.items()
        }

    @cached_property
    def counted(self) -> np.ndarray:
        """Whether the official script counts the question at all."""
        return np.array([not r.meta.get(ABSENT) and self.rule.counts(r.text) for r in self.records], dtype=bool)

    def cells(self, verdicts: np.ndarray, chosen: np.ndarray) -> Cells:
        """``verdicts`` [N] of the ``chosen`` [N] questions, by stream and task."""
        records = [record for record, is_chosen in zip(self.records, chosen, strict=True) if is_chosen]
        streams, tasks = [r.stream_id for r in records], [r.task for r in records]
        return Cells.of(verdicts[chosen], streams, tasks)


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
    # A second answer to a question, and a question that is only in the annotation file, are no entries of the files.
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


Part = dict[str, Any]


def score_summary(records: Sequence[Record], rule: Rule, seed: int = 0) -> dict[str, Any]:
    """Accuracy by task, by group and overall, where ``correct`` of a record is the verdict of the official rule.

    ``accuracy`` follows the benchmark's own averaging and counts every question, unanswered and failed ones as wrong.
    ``total`` is the benchmark's own figure: it may leave questions out (``rule.counts``), never counts questions that
    a prediction file does not have, and is ``None`` where a whole group is missing. ``coverage`` of a run refers to the
    questions it was to ask, that of imported predictions to the whole benchmark. All values are shares from 0 to 1.
    """
    verdicts, sizes = Verdicts(records, rule), expected_sizes(records, rule)

    def split(label: str, average: Average, tasks_of: Callable[[str], Sequence[str]]) -> dict[str, Part]:
        names = sorted({getattr(record, label) for record in records} - {""})
        parts = {name: [record for record in records if getattr(record, label) == name] for name in names}
        return {name: _part(part, rule, average, seed, _num(sizes, tasks_of(name))) for name, part in parts.items()}

    return {
        "benchmark": rule.name,
        **_part(records, rule, verdicts.average, seed, _num(sizes, rule.sizes)),
        **_total(verdicts, seed),
        "micro_accuracy": _value(verdicts, verdicts.official, Average()),
        "by_task": split("task", Average(), lambda task: (task,)),
        "by_group": split("group", verdicts.average.within_group(), lambda group: rule.groups.get(group, ())),
        "readings": _readings(verdicts, seed),
        "rule": describe_rule(rule),
        "completeness": completeness(records, sizes) if is_imported(records) else None,
    }


def describe_rule(rule: Rule) -> dict[str, str]:
    """The rule in words."""
    return {
        "name": rule.name,
        "official": rule.official_words,
        "strict": rule.strict_words,
        "average": Average(rule.average).in_words,
        "source": rule.source,
    }


def coverage(records: Sequence[Record], num_expected: int | None = None) -> float | None:
    """Share of the questions that have an answer: of the records, or of the number given."""
    num = len(records) if num_expected is None else num_expected
    answered = sum(record.status == "answered" and not record.meta.get(REPEATED) for record in records)
    return answered / num if num else None


def _num(sizes: Mapping[str, int] | None, tasks: Iterable[str]) -> int | None:
    """Questions of these tasks; ``None`` where the number is not known."""
    return sum(sizes[task] for task in tasks) or None if sizes is not None else None


def _part(records: Sequence[Record], rule: Rule, average: Average, seed: int, num_expected: int | None) -> Part:
    """Accuracy over all ``records`` with its interval, and over those that the official script counts."""
    verdicts = Verdicts(records, rule)
    return {
        **accuracy_summary(records, seed, average),
        "accuracy_counted": _value(verdicts, verdicts.official, average, verdicts.counted),
        "accuracy_strict_reading": _value(verdicts, verdicts.strict, average),
        "coverage": coverage(records, num_expected),
        "num_counted": int(verdicts.counted.sum()),
        "num_answered": sum(record.status == "answered" for record in records),
    }


def _total(verdicts: Verdicts, seed: int) -> dict[str, Any]:
    """The benchmark's own figure with its interval, or why there is none."""
    counted = {r.task for r, is_counted in zip(verdicts.records, verdicts.counted, strict=True) if is_counted}
    # An average over groups means nothing when one of them is missing as a whole.
    missing = []
    if verdicts.rule.average == "groups":
        missing = [name for name, tasks in verdicts.rule.groups.items() if not counted & set(tasks)]
    if missing or not counted:
        reason = f"nothing of {', '.join(missing)}" if missing else "no question that counts"
        return {"total": None, "total_ci95": None, "total_missing": reason}
    cells = verdicts.cells(verdicts.official, verdicts.counted)
    return {"total": cells.average(verdicts.average), "total_ci95": cells.interval(verdicts.average, seed)[0]}


def _readings(verdicts: Verdicts, seed: int) -> dict[str, Any]:
    """Every way to read the answers; where one differs from the official one, in which questions."""
    readings = {"official": _reading(verdicts, verdicts.official, seed)}
    readings["strict"] = {**_reading(verdicts, verdicts.strict, seed), "num_unread": int(verdicts.unread.sum())}
    for name, column in verdicts.others.items():
        readings[name] = _reading(verdicts, column, seed)
    return readings


def _reading(verdicts: Verdicts, column: np.ndarray, seed: int) -> Part:
    everything = np.ones(len(column), dtype=bool)
    part = {
        "accuracy": _value(verdicts, column, verdicts.average),
        "accuracy_counted": _value(verdicts, column, verdicts.average, verdicts.counted),
        "num_right": int(column.sum()),
    }
    # A reading that differs nowhere needs no interval and no lists.
    if np.array_equal(column, verdicts.official):
        return part
    part["accuracy_ci95"] = verdicts.cells(column, everything).interval(verdicts.average, seed)[0]
    for name, differs in (("only_official", verdicts.official & ~column), ("only_here", column & ~verdicts.official)):
        part[name] = [r.question_id for r, is_one in zip(verdicts.records, differs, strict=True) if is_one]
    return part


def _value(verdicts: Verdicts, column: np.ndarray, average: Average, chosen: np.ndarray | None = None) -> float | None:
    chosen = np.ones(len(column), dtype=bool) if chosen is None else chosen
    return verdicts.cells(column, chosen).average(average) if chosen.any() else None

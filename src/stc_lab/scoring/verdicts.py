"""The verdicts on a set of records, as columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from stc_lab.results.averages import Average, Cells
from stc_lab.results.records import Record
from stc_lab.scoring.marks import ABSENT
from stc_lab.scoring.rule import Rule


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

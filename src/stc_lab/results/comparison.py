"""Two runs compared on the questions that both were asked: overall, by group and by task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from stc_lab.benchmarks import rule_of
from stc_lab.results.axes import BUDGETS, COSTS, axis_values
from stc_lab.results.records import RECORDS_FILE, Record, read_records, read_summary
from stc_lab.results.statistics import FEW_STREAMS, LEVEL, Average, Cells

Pair = tuple[Record, Record]
ALPHA = 1 - LEVEL


@dataclass(frozen=True)
class Comparison:
    """What the second run does to the first, over ``num_questions`` shared questions about ``num_streams`` videos.

    Accuracies and ``difference`` (second minus first, with its 95 % interval ``ci95``) are shares. ``num_only_first``
    and ``num_only_second`` questions were answered right by one run alone; ``p_value`` is McNemar's exact test on them.
    ``verdict``: ``better``, ``worse``, ``not distinguishable`` or ``same`` (no question differs).
    """

    accuracy_first: float
    accuracy_second: float
    difference: float
    ci95: tuple[float, float] | None
    num_questions: int
    num_streams: int
    num_only_first: int
    num_only_second: int
    p_value: float
    verdict: str

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)


def shared_pairs(first: Sequence[Record], second: Sequence[Record]) -> list[Pair]:
    """The scored questions that are in both, in the order of the first.

    Questions are the same when their ids are, where those are unique in both runs; else stream and question id count.
    """
    # Ids alone, where they suffice: published predictions may name the streams otherwise.
    key = _by_id if _has_unique_ids(first) and _has_unique_ids(second) else _by_key
    theirs = {key(record): record for record in second if record.correct is not None}
    mine = [record for record in first if record.correct is not None]
    return [(record, theirs[key(record)]) for record in mine if key(record) in theirs]


def compare(pairs: Sequence[Pair], average: Average | None = None, seed: int = 0) -> Comparison:
    """Compare two runs on their shared questions. Raises ``ValueError`` when there are none.

    The interval of the difference resamples videos, so that answers about one video may hang together. It decides:
    a run is better or worse when the interval lies on one side of zero. With fewer than ``FEW_STREAMS`` videos the
    interval is too narrow to be trusted alone, and McNemar's test must agree.
    """
    if not pairs:
        raise ValueError("the two runs share no question")
    average = average or Average()
    # Paired: only the difference of the two verdicts on each question is resampled, video by video.
    right = np.array([(a.correct, b.correct) for a, b in pairs], dtype=float)
    streams, tasks = [a.stream_id for a, _ in pairs], [a.task for a, _ in pairs]
    gain = right[:, 1] - right[:, 0]
    cells = Cells.of(gain, streams, tasks)
    difference = cells.average(average)
    ci95 = cells.resampled(average, seed)
    if ci95 is None and cells.num_streams > 1:
        ci95 = (difference, difference)  # all videos show the same
    num_first, num_second = int((gain < 0).sum()), int((gain > 0).sum())
    p_value = mcnemar(num_first, num_second)
    first, second = (Cells.of(right[:, i], streams, tasks).average(average) for i in (0, 1))
    return Comparison(
        accuracy_first=first,
        accuracy_second=second,
        difference=difference,
        ci95=ci95,
        num_questions=len(pairs),
        num_streams=cells.num_streams,
        num_only_first=num_first,
        num_only_second=num_second,
        p_value=p_value,
        verdict=_verdict(ci95, p_value, num_first + num_second, cells.num_streams),
    )


def mcnemar(num_only_first: int, num_only_second: int) -> float:
    """Two-sided p value of McNemar's exact test: the questions that only one run got right, against a fair coin."""
    num = num_only_first + num_only_second
    return float(stats.binomtest(num_only_second, num, 0.5).pvalue) if num else 1.0


def in_words(comparison: Comparison, first: str, second: str) -> str:
    """The verdict as a sentence about ``second``, the name of the second run."""
    sizes = f"{comparison.num_questions} shared questions about {comparison.num_streams} videos"
    points = f"{abs(100 * comparison.difference):.1f} points"
    if comparison.verdict == "same":
        return f"{second} and {first} are right about the same questions ({sizes})."
    if comparison.ci95 is None:
        return f"{second} and {first} are not distinguishable: {sizes} give no interval (difference {points})."
    low, high = (100 * bound for bound in comparison.ci95)
    interval = f"95 % interval {low:+.1f} to {high:+.1f}, McNemar p = {comparison.p_value:.2g}; {sizes}"
    if comparison.verdict == "not distinguishable":
        half = (high - low) / 2
        return (
            f"{second} is not distinguishable from {first} at this size: {100 * comparison.difference:+.1f} points "
            f"({interval}). A difference below about {half:.1f} points would not show here."
        )
    return f"{second} is {comparison.verdict} than {first} by {points} ({interval})."


def _verdict(ci95: tuple[float, float] | None, p_value: float, num_differing: int, num_streams: int) -> str:
    if num_differing == 0:
        return "same"
    # With few videos the bootstrap interval is too narrow: McNemar's test has to agree.
    is_trusted = num_streams >= FEW_STREAMS or p_value < ALPHA
    if ci95 is None or not is_trusted or ci95[0] <= 0 <= ci95[1]:
        return "not distinguishable"
    return "better" if ci95[0] > 0 else "worse"


def _has_unique_ids(records: Sequence[Record]) -> bool:
    counts = Counter(record.question_id for record in records)
    return len(counts) == len(records)


def _by_id(record: Record) -> str:
    return record.question_id


def _by_key(record: Record) -> tuple[str, str]:
    return record.key


EQUAL_BUDGET = 0.02
"""Tokens and bytes that differ by less than this share are called equal."""


@dataclass(frozen=True)
class Side:
    """One of the two: ``name`` as it is shown, its records, and its summary as far as there is one."""

    name: str
    records: list[Record]
    summary: dict[str, Any]

    @property
    def dataset(self) -> str | None:
        """Name of the benchmark, where it is known."""
        return self.summary.get("benchmark") or self.summary.get("run", {}).get("dataset")

    @property
    def num_answered(self) -> int:
        """Questions with an answer."""
        return sum(record.status == "answered" for record in self.records)


@dataclass(frozen=True)
class RunComparison:
    """The result: differences overall, by group and by task, and remarks on what is compared.

    ``both_answered``: on the questions that both have an answer to; ``None`` when those are all. ``groups``: the tasks
    of each group.
    """

    first: Side
    second: Side
    average: Average
    groups: Mapping[str, Sequence[str]]
    overall: Comparison
    both_answered: Comparison | None
    by_group: dict[str, Comparison]
    by_task: dict[str, Comparison]
    remarks: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The verdict in plain words, also on the questions that both answered, where those are fewer."""
        words = in_words(self.overall, self.first.name, self.second.name)
        if self.both_answered is None:
            return words
        return f"{words} Where both have an answer: {in_words(self.both_answered, self.first.name, self.second.name)}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {
            "first": self.first.name,
            "second": self.second.name,
            "sentence": self.sentence,
            "average": self.average.in_words,
            "overall": self.overall.as_dict(),
            "both_answered": self.both_answered and self.both_answered.as_dict(),
            "by_group": {name: part.as_dict() for name, part in self.by_group.items()},
            "by_task": {name: part.as_dict() for name, part in self.by_task.items()},
            "remarks": list(self.remarks),
        }


def read_side(folder: Path, name: str) -> Side:
    """The records of a run folder or of scored predictions. Raises ``ValueError`` for another folder."""
    records = read_records(folder / RECORDS_FILE)
    if not records:
        shards = sorted(folder.glob("records.rank*.jsonl"))
        hint = "give the folder of a run, or of scored predictions"
        hint = "its run has not ended: start it again" if shards else hint
        raise ValueError(f"{folder}: no {RECORDS_FILE} with records in it; {hint}")
    return Side(name, records, read_summary(folder) or {})


def compare_sides(first: Side, second: Side, seed: int = 0) -> RunComparison:
    """Compare on the shared questions, by the benchmark's own averaging. Raises ``ValueError`` without any."""
    pairs = shared_pairs(first.records, second.records)
    if not pairs:
        raise ValueError(
            f"{first.name} ({first.dataset}) and {second.name} ({second.dataset}) share no scored question: "
            f"compare runs on the same benchmark"
        )
    rule = rule_of(first.dataset or "")
    average = Average(rule.average, rule.groups) if rule else Average()
    groups = rule.groups if rule else {}
    answered = [pair for pair in pairs if all(record.status == "answered" for record in pair)]
    inside = average.within_group()
    return RunComparison(
        first=first,
        second=second,
        average=average,
        groups=groups,
        overall=compare(pairs, average, seed),
        both_answered=compare(answered, average, seed) if 0 < len(answered) < len(pairs) else None,
        by_group=_split(pairs, "group", groups, inside, seed),
        by_task=_split(pairs, "task", [task for tasks in groups.values() for task in tasks], Average(), seed),
        remarks=tuple(_remarks(first, second, pairs)),
    )


def _split(
    pairs: Sequence[Pair], label: str, order: Iterable[str], average: Average, seed: int
) -> dict[str, Comparison]:
    """By label: those in ``order`` first, then the others in alphabetical order; empty labels are left out."""
    found = {getattr(first, label) for first, _ in pairs} - {""}
    # The order of the published tables first.
    names = [name for name in order if name in found]
    names += sorted(found - set(names))
    parts = {name: [pair for pair in pairs if getattr(pair[0], label) == name] for name in names}
    return {name: compare(part, average, seed) for name, part in parts.items()}


def _remarks(first: Side, second: Side, pairs: Sequence[Pair]) -> list[str]:
    remarks = []
    for side in (first, second):
        num_scored = sum(record.correct is not None for record in side.records)
        if num_scored > len(pairs):
            remarks.append(f"{num_scored - len(pairs)} questions of {side.name} are not in the other run and left out")
        if side.num_answered < len(side.records):
            num = len(side.records)
            remarks.append(f"{side.name} answers {side.num_answered} of {num} questions; the others count as wrong")
    golds = sum(a.answer != b.answer for a, b in pairs)
    if golds:
        remarks.append(f"{golds} shared questions have different gold answers; each run is held to its own")
    return remarks + _budget_remark(first, second)


def _budget_remark(first: Side, second: Side) -> list[str]:
    """One for each of the three budgets in which the runs differ."""
    remarks = []
    sides = [axis_values(side.summary) for side in (first, second)]
    for cost in (COSTS[name] for name in BUDGETS):
        one, other = (values[cost.column] for values in sides)
        if None not in (one, other) and abs(one - other) > EQUAL_BUDGET * max(one, other):
            remarks.append(f"not at equal budget: {cost.show.format(one)} and {cost.show.format(other)} {cost.label}")
    return remarks

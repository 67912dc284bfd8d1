"""Two run folders compared: overall, by group and by task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stc_lab.results.averages import AVERAGES, Average
from stc_lab.results.paired import Comparison, Pair, compare, in_words, shared_pairs
from stc_lab.results.records import RECORDS_FILE, Record, read_records
from stc_lab.results.summary_file import read_summary
from stc_lab.scoring.rules import rule_of

EQUAL_BUDGET = 0.02
"""Tokens per frame that differ by less than this share are called equal."""


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
            "average": AVERAGES[self.average.kind],
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
    tokens = [(side.summary.get("tokens_per_frame") or {}).get("achieved") for side in (first, second)]
    if None in tokens or abs(tokens[0] - tokens[1]) <= EQUAL_BUDGET * max(tokens):
        return []
    return [f"not at equal budget: {tokens[0]:.1f} and {tokens[1]:.1f} tokens per frame"]

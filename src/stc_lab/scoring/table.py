"""Scores in the terminal: the official figure beside all questions and the strict reading."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from stc_lab.paper import PaperRow, find_row
from stc_lab.scoring.rules import RULES

Summary = dict[str, Any]
NUM_NAMED = 8


def print_scores(console: Console, summary: Summary, paper: str | None = None) -> None:
    """Print accuracy by task, by group and overall, and what is to be known about it.

    ``paper``: label of a row of the paper to print beside. Raises ``ValueError`` when there is no such row.
    """
    row = find_row(summary["benchmark"], paper) if paper else None
    table = Table(title=f"{summary['name']} on {summary['benchmark']} (%)", title_justify="left")
    table.add_column("")
    for name in ("official", "all questions [95 %]", "strict reading", "answered", "questions"):
        table.add_column(name, justify="right", no_wrap=True)
    if row is not None:
        table.add_column("paper", justify="right")
    for name, part, value in _parts(summary, row):
        table.add_row(name, *_cells(part), *([_printed(value)] if row is not None else []))
    console.print(table)
    for line in (*_facts(summary), *_paper_facts(row)):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _parts(summary: Summary, row: PaperRow | None) -> Iterator[tuple[str, Summary, float | None]]:
    """Label, numbers and the paper's score: groups with their tasks, then the total."""
    scores = {} if row is None else row.scores
    rule = RULES[summary["benchmark"]]
    known = [name for name in rule.groups if name in summary["by_group"]]
    for group in [*known, *(name for name in summary["by_group"] if name not in known)]:
        yield group, summary["by_group"][group], scores.get(group)
        for task in rule.groups.get(group, ()):
            if task in summary["by_task"]:
                yield f"  {task}", summary["by_task"][task], scores.get(task)
    grouped = {task for group in known for task in rule.groups[group]}
    for task in summary["by_task"]:
        if task not in grouped:
            yield f"  {task}", summary["by_task"][task], scores.get(task)
    overall = None if row is None else row.overall(summary["benchmark"])
    yield "total", {**summary, "accuracy_counted": summary["total"]}, overall


def _cells(part: Summary) -> list[str]:
    return [
        _percent(part["accuracy_counted"]),
        f"{_percent(part['accuracy'])} [{', '.join(_percent(bound) for bound in part['accuracy_ci95'])}]",
        _percent(part["accuracy_strict_reading"]),
        f"{part['num_answered']} ({part['coverage']:.1%})",
        str(part["num_questions"]),
    ]


def _facts(summary: Summary) -> Iterator[str]:
    if summary["total"] is None:
        yield f"no official total: {summary['total_missing']}"
    yield f"official rule: {summary['rule']['official']} ({summary['rule']['source']})"
    yield f"overall: {summary['rule']['average']}; unanswered questions count as wrong under 'all questions'"
    yield from _completeness(summary["completeness"])
    yield from _differences(summary)
    yield from summary["notes"]


def _completeness(found: Summary) -> Iterator[str]:
    if found["num_expected"] is None:
        yield "whether all questions are there is not known: there are tasks that are not among the published ones"
    elif found["is_complete"]:
        yield f"complete: all {found['num_expected']} questions are answered"
    else:
        yield f"INCOMPLETE: {found['num_answered']} of {found['num_expected']} questions are answered"
    if found["num_absent"]:
        by_task = ", ".join(f"{task} {num}" for task, num in found["absent_by_task"].items())
        yield f"  {found['num_absent']} questions are not in the files: {by_task}"
    reasons: dict[str, list[str]] = {}
    for question_id, reason in found["not_answered"].items():
        reasons.setdefault(reason, []).append(question_id)
    for reason, ids in reasons.items():
        yield f"  {len(ids)} questions: {reason}: {_named(ids)}"


def _differences(summary: Summary) -> Iterator[str]:
    readings = summary["readings"]
    for name, reading in readings.items():
        if "only_here" in reading:
            counted = f"{_percent(reading['accuracy_counted'])} as officially counted"
            yield f"reading '{name}' differs: {_percent(reading['accuracy'])} over all questions, {counted}"
            yield f"  right only officially: {_named(reading['only_official'])}"
            yield f"  right only here: {_named(reading['only_here'])}"
    if readings["strict"]["num_unread"]:
        yield f"{readings['strict']['num_unread']} texts cannot be read strictly ({summary['rule']['strict']})"


def _paper_facts(row: PaperRow | None) -> Iterator[str]:
    if row is None:
        return
    yield f"paper: {row.label} ({row.method}), {row.source}"
    if row.overall_recomputed is not None:
        yield f"  overall recomputed from its tasks: {row.overall_recomputed:.2f}"
    for note in row.notes:
        yield f"  {note}"


def _named(ids: list[str]) -> str:
    more = ", ... (all in summary.json)" if len(ids) > NUM_NAMED else ""
    return ", ".join(ids[:NUM_NAMED]) + more if ids else "none"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _printed(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:.1f}"

"""A comparison in the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from stc_lab.results.averages import AVERAGES
from stc_lab.results.comparison import RunComparison
from stc_lab.results.paired import Comparison

SIGNS = {"better": "+", "worse": "-", "not distinguishable": "", "same": "="}


def print_comparison(console: Console, result: RunComparison) -> None:
    """Print the differences by task, by group and overall, the remarks, and the verdict as a sentence."""
    title = f"{result.second.name} against {result.first.name} (%), on the questions that both were asked"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in ("first", "second", "difference [95 %]", "only 1st", "only 2nd", "p", "", "questions"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, part in _rows(result):
        table.add_row(name, *_cells(part))
    if result.both_answered is not None:
        table.add_row("answered by both", *_cells(result.both_answered))
    console.print(table)
    lines = [
        f"first: {result.first.name}; second: {result.second.name}; overall: {AVERAGES[result.average.kind]}",
        "only 1st, only 2nd: questions that only one of them has right; p: McNemar's exact test on these; "
        "single tasks are many looks at the same data",
        *result.remarks,
        result.sentence,
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _rows(result: RunComparison) -> Iterator[tuple[str, Comparison]]:
    """Groups, each with its tasks, then tasks of no group, then all."""
    shown = set()
    for group, part in result.by_group.items():
        yield group, part
        for task in result.groups.get(group, ()):
            if task in result.by_task:
                shown.add(task)
                yield f"  {task}", result.by_task[task]
    for task, part in result.by_task.items():
        if task not in shown:
            yield f"  {task}", part
    yield "overall", result.overall


def _cells(part: Comparison) -> list[str]:
    interval = "-" if part.ci95 is None else f"[{100 * part.ci95[0]:+.2f}, {100 * part.ci95[1]:+.2f}]"
    return [
        f"{100 * part.accuracy_first:.2f}",
        f"{100 * part.accuracy_second:.2f}",
        f"{100 * part.difference:+.2f} {interval}",
        str(part.num_only_first),
        str(part.num_only_second),
        f"{part.p_value:.2g}",
        SIGNS[part.verdict],
        str(part.num_questions),
    ]

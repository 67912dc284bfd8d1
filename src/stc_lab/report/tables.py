"""Tables in the terminal: the result of a run, a comparison of two runs, the scores of published predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from stc_lab.benchmarks import rule_of
from stc_lab.report.paper import PaperRow, find_row
from stc_lab.results.records import Record

if TYPE_CHECKING:
    from stc_lab.results.comparison import Comparison, RunComparison  # loads scipy, which a mistake need not wait for

WIDTH_OF_A_FILE = 120


def result_console() -> Console:
    """Standard output; a file or a pipe has no width of its own and gets one that tables fit into."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH_OF_A_FILE)


Summary = dict[str, Any]
Row = tuple[str, list[str]]

FIDELITY_ROWS = {
    "feature_cosine": "cosine of features to uncompressed",
    "kl_divergence": "KL of answers to uncompressed (nats)",
    "top1_agreement": "same best answer as uncompressed",
}
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def print_result(console: Console, summary: Summary, baseline: Summary | None = None) -> None:
    """Print accuracy, coverage, tokens, stage times and FLOPs; with ``baseline`` also its numbers and the ratio.

    Accuracy is split by group where the questions have groups, by task otherwise; the summary has both.
    """
    table = Table(title=_title(summary), title_justify="left", caption_justify="left")
    table.caption = _caption(summary, has_ratios=baseline is not None)
    table.add_column("")
    table.add_column(_label(summary), justify="right")
    if baseline is not None:
        table.add_column("uncompressed", justify="right")
        table.add_column("ratio", justify="right")
    columns = [summary] if baseline is None else [summary, baseline]
    for section in (_accuracy_rows, _fidelity_rows, _token_rows, _time_rows, _clock_rows, _cost_rows):
        for name, cells in section(columns):
            table.add_row(name, *cells)
        table.add_section()
    console.print(table)


def format_accuracy(accuracy: float, low: float, high: float) -> str:
    """``83.1% [78.0, 87.4]`` of shares."""
    return f"{accuracy:.1%} [{100 * low:.1f}, {100 * high:.1f}]"


def format_count(value: float | None) -> str:
    """A large number with a unit prefix: ``1.53 G``."""
    if value is None:
        return "-"
    for size, unit in UNITS:
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def _title(summary: Summary) -> str:
    run = summary["run"]
    sizes = f"{summary['num_streams']} streams, {summary['num_questions']} questions"
    return f"{run['backbone']} on {run['dataset']}: {sizes}, {summary['fps']:g} frames a second"


def _label(summary: Summary) -> str:
    run = summary["run"]
    methods = f"cacher {run['cacher']}, pruner {run['pruner']}"
    own = run.get("memory", run["backbone"]) == run["backbone"]
    return methods if own else f"memory {run['memory']}, {methods}"


def _caption(summary: Summary, has_ratios: bool) -> str:
    parts = [
        f"{summary['device_name']}, {summary['precision']}",
        "accuracy with 95 % interval over streams; unanswered and failed count as wrong",
        "times are median / p90 after warm-up" + (", ratios are of means" if has_ratios else ""),
    ]
    return "\n".join(parts)


def _accuracy_rows(columns: list[Summary]) -> Iterator[Row]:
    yield "accuracy", _cells(columns, lambda s: s, _accuracy)
    split = "by_group" if columns[0]["by_group"] else "by_task"
    for name in columns[0][split]:
        yield f"  {name}", _cells(columns, lambda s, name=name: s[split].get(name), _accuracy)
    yield "coverage", _cells(columns, lambda s: s["coverage"], "{:.1%}".format)
    if any(s["num_unanswered"] + s["num_failed"] for s in columns):
        yield "unanswered / failed", _cells(columns, lambda s: s, _missing)


def _fidelity_rows(columns: list[Summary]) -> Iterator[Row]:
    """Only where likeness to the uncompressed run was measured."""
    if not any(s.get("fidelity") for s in columns):
        return
    for key, name in FIDELITY_ROWS.items():
        cells = _cells(columns, lambda s, key=key: (s.get("fidelity") or {}).get(key), _likeness)
        yield name, cells


def _token_rows(columns: list[Summary]) -> Iterator[Row]:
    yield "tokens per frame", _with_ratio(columns, lambda s: s["tokens_per_frame"]["achieved"], "{:.1f}".format)
    yield "  requested", _cells(columns, lambda s: s["tokens_per_frame"]["requested"], str)
    if any(_budget(s, "tokens_read").get("mean") is not None for s in columns):
        yield (
            "visual tokens a question reads",
            _with_ratio(columns, lambda s: _budget(s, "tokens_read").get("mean"), "{:.1f}".format),
        )
        yield "  in the largest layer", _cells(columns, lambda s: _budget(s, "tokens_read").get("max_layer"), str)
    if any(_budget(s, "tokens_read").get("requested") is not None for s in columns):
        yield "  requested", _cells(columns, lambda s: _budget(s, "tokens_read").get("requested"), str)
    yield "vision tokens recomputed", _with_ratio(columns, lambda s: s["update_ratio"], "{:.1%}".format)


def _budget(summary: Summary, name: str) -> Summary:
    """A part of ``budgets``; empty for runs from before there were any."""
    return summary.get("budgets", {}).get(name) or {}


def _time_rows(columns: list[Summary]) -> Iterator[Row]:
    stages = list(dict.fromkeys(stage for summary in columns for stage in summary["latency_ms"]))
    for stage in stages:
        yield f"{stage} (ms)", _times(columns, lambda s, stage=stage: s["latency_ms"].get(stage))
    yield "one frame, without decode (ms)", _times(columns, lambda s: s["frame_ms"])
    yield "one answer (ms)", _times(columns, lambda s: s["answer_ms"])
    yield "time to first token (ms)", _times(columns, lambda s: s["ttft_ms"])


def _clock_rows(columns: list[Summary]) -> Iterator[Row]:
    """Runs from before there was a clock have no such rows."""
    if not all("clock" in summary for summary in columns):
        return
    cells = _with_ratio(columns, lambda s: s["clock"]["sustainable_fps"], "{:.2f}".format)
    yield "frame rate kept up with (1/s)", cells
    name = f"delay of an answer at {columns[0]['fps']:g} frames/s (s)"
    yield name, _cells(columns, lambda s: s["clock"]["response_delay_s"], _delay)
    yield "frames waiting at a question", _cells(columns, lambda s: s["clock"]["backlog_frames"], _most)
    yield "frames encoded / if encoded again per question", _cells(columns, lambda s: s["encoding"], _encoded)


def _cost_rows(columns: list[Summary]) -> Iterator[Row]:
    stages = list(dict.fromkeys(stage for summary in columns for stage in summary["flops_per_frame"]))
    for stage in stages:
        cells = _with_ratio(columns, lambda s, stage=stage: s["flops_per_frame"].get(stage), format_count)
        yield f"{stage} FLOPs per frame", cells
    if any(_budget(s, "bytes_kept").get("max") is not None for s in columns):
        yield (
            "bytes kept between frames",
            _with_ratio(columns, lambda s: _budget(s, "bytes_kept").get("max"), format_count),
        )
    yield "KV bytes on device", _with_ratio(columns, lambda s: s["kv_bytes"]["device"], format_count)
    yield "KV bytes on host", _with_ratio(columns, lambda s: s["kv_bytes"]["host"], format_count)
    yield "peak memory (GiB)", _cells(columns, lambda s: s["peak_mem_gib"], "{:.2f}".format)
    yield "outside all stages", _cells(columns, lambda s: s["overhead_ratio"], "{:.1%}".format)


def _cells(columns: list[Summary], get: Callable[[Summary], Any], show: Callable[[Any], str]) -> list[str]:
    values = [get(summary) for summary in columns]
    return ["-" if value is None else show(value) for value in values]


def _with_ratio(columns: list[Summary], get: Callable[[Summary], Any], show: Callable[[Any], str]) -> list[str]:
    return _cells(columns, get, show) + _ratio([get(summary) for summary in columns])


def _times(columns: list[Summary], get: Callable[[Summary], Any]) -> list[str]:
    values = [get(summary) for summary in columns]
    return _cells(columns, get, _spread) + _ratio([value["mean"] if value else None for value in values])


def _ratio(values: list[float | None]) -> list[str]:
    if len(values) < 2:
        return []
    value, baseline = values
    return [f"{value / baseline:.2f}" if value is not None and baseline else "-"]


def _spread(times: dict[str, float]) -> str:
    return f"{times['median']:.1f} / {times['p90']:.1f}"


def _accuracy(part: Summary) -> str:
    return "-" if part["accuracy"] is None else format_accuracy(part["accuracy"], *part["accuracy_ci95"])


def _likeness(part: Summary) -> str:
    interval = "" if part["ci95"] is None else " [{:.4g}, {:.4g}]".format(*part["ci95"])
    worst = f", worst frame {part['worst_frame']:.4g}" if "worst_frame" in part else ""
    return f"{part['mean']:.4g}{interval}{worst}"


def _missing(summary: Summary) -> str:
    return f"{summary['num_unanswered']} / {summary['num_failed']}"


def _delay(delays: dict[str, float]) -> str:
    return f"{delays['median']:.2f} / {delays['p90']:.2f}"


def _most(counts: dict[str, float]) -> str:
    return f"{counts['median']:.0f}, at most {counts['max']:.0f}"


def _encoded(counts: Summary) -> str:
    return f"{counts['num_frames']} / {counts['num_frames_anew']}"


SIGNS = {"better": "+", "worse": "-", "not distinguishable": "", "same": "="}


def print_comparison(console: Console, result: RunComparison) -> None:
    """Print the differences by task, by group and overall, the remarks, and the verdict as a sentence."""
    title = f"{result.second.name} against {result.first.name} (%), on the questions that both were asked"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in ("first", "second", "difference [95 %]", "only 1st", "only 2nd", "p", "", "questions"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, part in _comparison_rows(result):
        table.add_row(name, *_comparison_cells(part))
    if result.both_answered is not None:
        table.add_row("answered by both", *_comparison_cells(result.both_answered))
    console.print(table)
    lines = [
        f"first: {result.first.name}; second: {result.second.name}; overall: {result.average.in_words}",
        "only 1st, only 2nd: questions that only one of them has right; p: McNemar's exact test on these; "
        "single tasks are many looks at the same data",
        *result.remarks,
        result.sentence,
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _comparison_rows(result: RunComparison) -> Iterator[tuple[str, Comparison]]:
    """Groups, each with its tasks, then tasks of no group, then all."""
    # Tasks stand below their group; those of no group come last.
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


def _comparison_cells(part: Comparison) -> list[str]:
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


NUM_NAMED = 8


def print_encoding(console: Console, runs: Mapping[str, Sequence[Record]]) -> None:
    """Print what encoding a video once saves: frames and seconds of each run, by folder, against encoding again."""
    from stc_lab.results.clock import encoding_summary, encoding_work_s

    table = Table("run", "questions", "frames encoded", "encoding (s)", "frames if encoded again", "ratio")
    for run_dir, records in runs.items():
        counts = encoding_summary(records)
        ratio = "-" if counts["ratio"] is None else f"{counts['ratio']:.2f}"
        work_s = f"{encoding_work_s(records):.2f}"
        cells = (len(records), counts["num_frames"], work_s, counts["num_frames_anew"], ratio)
        table.add_row(run_dir, *map(str, cells))
    console.print(table)


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
    for name, part, value in _score_rows(summary, row):
        table.add_row(name, *_score_cells(part), *([_printed(value)] if row is not None else []))
    console.print(table)
    for line in (*_score_facts(summary), *_paper_facts(row)):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _score_rows(summary: Summary, row: PaperRow | None) -> Iterator[tuple[str, Summary, float | None]]:
    """Label, numbers and the paper's score: groups with their tasks, then the total."""
    scores = {} if row is None else row.scores
    rule = rule_of(summary["benchmark"])
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


def _score_cells(part: Summary) -> list[str]:
    return [
        _percent(part["accuracy_counted"]),
        f"{_percent(part['accuracy'])} [{', '.join(_percent(bound) for bound in part['accuracy_ci95'])}]",
        _percent(part["accuracy_strict_reading"]),
        f"{part['num_answered']} ({part['coverage']:.1%})",
        str(part["num_questions"]),
    ]


def _score_facts(summary: Summary) -> Iterator[str]:
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

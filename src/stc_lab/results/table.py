"""The result in the terminal, beside the uncompressed run where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

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
    return f"cacher {run['cacher']}, pruner {run['pruner']}"


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
    yield "vision tokens recomputed", _with_ratio(columns, lambda s: s["update_ratio"], "{:.1%}".format)


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
    yield "frames encoded / anew per question", _cells(columns, lambda s: s["encoding"], _encoded)


def _cost_rows(columns: list[Summary]) -> Iterator[Row]:
    stages = list(dict.fromkeys(stage for summary in columns for stage in summary["flops_per_frame"]))
    for stage in stages:
        cells = _with_ratio(columns, lambda s, stage=stage: s["flops_per_frame"].get(stage), format_count)
        yield f"{stage} FLOPs per frame", cells
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

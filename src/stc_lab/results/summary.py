"""``summary.json``: what a run says, derived from its records."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stc_lab.benchmarks import rule_of
from stc_lab.results.accuracy import is_imported, score_summary
from stc_lab.results.records import SCHEMA, Record
from stc_lab.results.statistics import (
    Average,
    Cells,
    accuracy_summary,
    confidence_interval,
    distribution,
    split_summary,
)
from stc_lab.types import FRAME_STAGES, QUESTION_STAGES

ENCODE_STAGES = tuple(stage for stage in FRAME_STAGES if stage != "decode")


def summarize(
    records: Sequence[Record],
    requested_tokens: int | None,
    seed: int = 0,
    benchmark: str = "",
    requested_read: int | None = None,
) -> dict[str, Any]:
    """All numbers of a run.

    ``requested_tokens``: tokens per frame that the pruner was asked for. ``requested_read``: visual tokens that
    a question was to read at most (budget of the memory). ``benchmark``: its name; one with an official
    rule is averaged by that, of any other all questions count the same.
    Latency is in milliseconds without warm-up: per stage, ``frame_ms`` (all stages of a frame but decoding),
    ``answer_ms`` (all stages of a question) and ``ttft_ms``. FLOPs are means over all frames or questions.
    ``overhead_ratio`` is the share of the wall time that no stage accounts for: loop, records, progress display.
    ``fidelity``: likeness to the uncompressed run; ``None`` where it was not measured.
    """
    frames = _FrameColumns(records)
    # Imported predictions have no frames: their number of tokens is what whoever imported them says.
    achieved_tokens = requested_tokens if is_imported(records) else _mean(frames.num_tokens)
    tokens_per_frame = {"requested": requested_tokens, "achieved": achieved_tokens}
    return {
        "schema": SCHEMA,
        **_accuracy(records, seed, benchmark),
        "num_answered": _count(records, "answered"),
        "num_unanswered": _count(records, "unanswered"),
        "num_failed": _count(records, "failed"),
        "num_errors": sum(record.error is not None for record in records),
        "num_frames": len(frames.num_tokens),
        "tokens_per_frame": tokens_per_frame,
        "budgets": {"tokens_per_frame": tokens_per_frame, **_budgets(records, requested_read)},
        "reference_ratio": _mean(frames.is_reference),
        "update_ratio": _mean(frames.update_ratio),
        "latency_ms": _latency(records, frames),
        "frame_ms": distribution(frames.total_ms),
        "answer_ms": distribution([sum(r.latency_ms.values()) for r in _timed_questions(records)]),
        "ttft_ms": distribution([r.ttft_ms for r in _timed_questions(records)]),
        "flops_per_frame": {stage: _mean(values) for stage, values in frames.flops.items()},
        "flops_per_question": _question_flops(records),
        "kv_bytes": {
            "device": _peak(records, "kv_bytes_device"),
            "host": _peak(records, "kv_bytes_host"),
        },
        "peak_mem_gib": _peak(records, "peak_mem_gib"),
        "overhead_ratio": overhead_ratio(records),
        "fidelity": fidelity_summary(records, seed),
    }


def _accuracy(records: Sequence[Record], seed: int, benchmark: str) -> dict[str, Any]:
    rule = rule_of(benchmark)
    if rule is not None:
        return score_summary(records, rule, seed)
    return {
        **accuracy_summary(records, seed),
        "by_task": split_summary(records, lambda record: record.task, seed),
        "by_group": split_summary(records, lambda record: record.group, seed),
    }


def overhead_ratio(records: Iterable[Record]) -> float | None:
    """Share of the wall time of the answered questions and their frames that lies outside all stages.

    Decoding runs ahead in a process of its own, so what counts of it is how long the loop waited.
    """
    wall_ms, stage_ms = 0.0, 0.0
    for record in records:
        if record.wall_ms is not None:
            # Of decoding, which runs beside the loop, only the waiting counts.
            wall_ms += record.wall_ms
            stage_ms += record.frames["wait_ms"] + record.frames["start_ms"] + sum(record.latency_ms.values())
            columns = record.frames["latency_ms"]
            stage_ms += sum(sum(values) for stage, values in columns.items() if stage != "decode")
    return 1 - stage_ms / wall_ms if wall_ms else None


class _FrameColumns:
    """The frame entries of all records, one list per column; times without warm-up."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.num_tokens: list[int] = []
        self.is_reference: list[bool] = []
        self.update_ratio: list[float] = []
        self.total_ms: list[float] = []
        self.latency_ms: dict[str, list[float]] = defaultdict(list)
        self.flops: dict[str, list[int]] = defaultdict(list)
        for record in records:
            if record.frames:
                self._add(record.frames)

    def _add(self, frames: dict[str, Any]) -> None:
        for name in ("num_tokens", "is_reference", "update_ratio"):
            getattr(self, name).extend(frames[name])
        for stage, values in frames["flops"].items():
            self.flops[stage].extend(values)
        # FLOPs and counts are those of all frames; times leave the warm-up out.
        first = frames["num_warmup"]
        for stage, values in frames["latency_ms"].items():
            self.latency_ms[stage].extend(values[first:])
        encode = [values[first:] for stage, values in frames["latency_ms"].items() if stage in ENCODE_STAGES]
        self.total_ms.extend(np.sum(encode, axis=0).tolist() if encode else [])


def _latency(records: Sequence[Record], frames: _FrameColumns) -> dict[str, dict[str, float]]:
    values = dict(frames.latency_ms)
    for record in _timed_questions(records):
        for stage, latency_ms in record.latency_ms.items():
            values.setdefault(stage, []).append(latency_ms)
    # In the order in which they happen; stages that a memory of someone else adds come last.
    known = [stage for stage in (*FRAME_STAGES, *QUESTION_STAGES) if values.get(stage)]
    others = sorted(stage for stage in values if stage not in known and values[stage])
    return {stage: distribution(values[stage]) for stage in (*known, *others)}


def _timed_questions(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if record.ttft_ms is not None and not record.warmup]


def _question_flops(records: Iterable[Record]) -> dict[str, float]:
    values: dict[str, list[int]] = defaultdict(list)
    for record in records:
        for stage, flops in record.flops.items():
            values[stage].append(flops)
    return {stage: _mean(flops) for stage, flops in values.items()}


def _budgets(records: Sequence[Record], requested_read: int | None) -> dict[str, dict[str, float | None]]:
    """Visual tokens that questions read and bytes that streams keep; ``None`` where records do not know them."""
    read = [record.tokens_read for record in records if record.tokens_read is not None]
    largest = [record.tokens_read_max for record in records if record.tokens_read_max is not None]
    kept = [record.bytes_kept for record in records if record.bytes_kept is not None]
    return {
        "tokens_read": {
            "requested": requested_read,
            "mean": _mean(read),
            "p90": float(np.percentile(read, 90)) if read else None,
            "max_layer": max(largest, default=None),
        },
        "bytes_kept": {"mean": _mean(kept), "max": max(kept, default=None)},
    }


def _count(records: Iterable[Record], status: str) -> int:
    return sum(record.status == status for record in records)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _peak(records: Iterable[Record], name: str) -> float | None:
    return max((record.memory[name] for record in records if name in record.memory), default=None)


Values = tuple[list[float], list[str]]


def fidelity_summary(records: Sequence[Record], seed: int = 0) -> dict[str, Any] | None:
    """``feature_cosine``, ``kl_divergence`` and ``top1_agreement``; ``None`` where none of it was measured.

    Each has ``mean``, its 95 % interval ``ci95`` with ``ci_method``, and ``num`` (frames, or questions). Videos are
    resampled as for accuracy. Cosines and divergences are no counts, so that one video gives no interval for them,
    and few videos one that is too narrow. Of features also ``worst_frame`` (lowest mean of a frame) and
    ``worst_token``; of divergences ``worst``. ``over``: questions by what their logits were over.
    """
    measured = [record for record in records if record.fidelity]
    frames, worst_tokens = _frame_values(records, "feature_cosine"), _frame_values(records, "worst_token_cosine")[0]
    if not measured and not frames[0]:
        return None
    streams = [record.stream_id for record in measured]
    divergences = [record.fidelity["kl_divergence"] for record in measured]
    agreements = [float(record.fidelity["top1_agrees"]) for record in measured]
    return {
        "feature_cosine": _mean_with_interval(*frames, seed, worst_frame=min, worst_token=lambda _: min(worst_tokens)),
        "kl_divergence": _mean_with_interval(divergences, streams, seed, worst=max),
        "top1_agreement": _share_with_interval(agreements, streams, seed),
        "over": dict(Counter(record.fidelity["over"] for record in measured)),
    }


def check_measured(records: Sequence[Record], folder: Path) -> None:
    """Raise ``ValueError`` when questions of an earlier run in ``folder`` were answered without measuring fidelity."""
    num_without = sum(record.ttft_ms is not None and not record.fidelity for record in records)
    if num_without:
        raise ValueError(
            f"measure.fidelity=true: {num_without} questions in {folder} were answered without it, and would be "
            f"missing in the result; choose another folder with hydra.run.dir, or measure.fidelity=false"
        )


def _frame_values(records: Sequence[Record], name: str) -> Values:
    """One value per frame, and the streams of the frames."""
    values: list[float] = []
    streams: list[str] = []
    for record in records:
        column = record.frames.get("fidelity", {}).get(name, [])
        values += column
        streams += [record.stream_id] * len(column)
    return values, streams


def _mean_with_interval(values: list[float], streams: list[str], seed: int, **extremes: Any) -> dict[str, Any] | None:
    if not values:
        return None
    cells = Cells.of(np.array(values), streams, [""] * len(values))
    mean, drawn = float(np.mean(values)), cells.resampled(Average(), seed)
    if drawn is None and cells.num_streams > 1:
        drawn = (mean, mean)  # all videos show the same
    return {
        "mean": mean,
        "ci95": None if drawn is None else list(drawn),
        "ci_method": None if drawn is None else "stream_bootstrap",
        "num": len(values),
        **{name: pick(values) for name, pick in extremes.items()},
    }


def _share_with_interval(values: list[float], streams: list[str], seed: int) -> dict[str, Any] | None:
    if not values:
        return None
    interval, method = confidence_interval(np.array(values), streams, seed)
    return {"mean": float(np.mean(values)), "ci95": interval, "ci_method": method, "num": len(values)}

"""What a frontier is drawn over: the numbers of a run by one name each, and which of them are costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ACCURACY = "share of scored questions answered right, failed and unanswered counted as wrong; higher is better"
GROUPS = ("backbone", "memory", "cacher", "pruner", "dataset")
"""What a run chooses by name."""
MIB = 1024**2


@dataclass(frozen=True)
class Cost:
    """A cost of a run: lower is better.

    ``column`` is its name among :func:`axis_values`; ``spread`` names the quartiles. ``is_time``: it wavers from run to
    run and holds for one device. ``show`` is a format for one value.
    """

    name: str
    column: str
    label: str
    explanation: str
    show: str = "{:.1f}"
    spread: tuple[str, str] | None = None
    is_time: bool = False


COSTS = {
    cost.name: cost
    for cost in (
        Cost(
            "latency", "latency_ms", "mean time per frame (ms)",
            "mean time of one frame after warm-up, preprocess to prefill, without decoding; bars: its middle half",
            spread=("latency_p25_ms", "latency_p75_ms"), is_time=True,
        ),
        Cost("flops", "flops_per_frame", "FLOPs per frame",
             "two per multiply-accumulate of matrix products, from shapes",
             show="{:.3g}"),
        Cost("tokens", "achieved_tokens", "visual tokens per frame", "mean number that reached the language model"),
        Cost("read_tokens", "tokens_read", "visual tokens read by a question",
             "mean over questions of the visual tokens that a question reads, mean over the layers of the language "
             "model"),
        Cost("bytes", "kept_mib", "kept between frames (MiB)",
             "largest size of all that a stream keeps between frames, on the device and on the host", show="{:.3g}"),
        Cost("memory", "kv_mib", "keys and values (MiB)",
             "largest size of the keys and values of a stream, on the device and on the host", show="{:.3g}"),
        Cost(
            "ttft", "ttft_ms", "time to first token (ms)",
            "median time from question to first token after warm-up; bars: its middle half",
            spread=("ttft_p25_ms", "ttft_p75_ms"), is_time=True,
        ),
    )
}  # fmt: skip

BUDGETS = ("tokens", "read_tokens", "bytes")
"""The costs that are budgets of tokens and bytes; runs are equal in one of them, seldom in all."""

TIMING_COLUMNS = (
    *("latency_ms", "latency_median_ms", "latency_p25_ms", "latency_p75_ms", "latency_p90_ms"),
    *("ttft_ms", "ttft_p25_ms", "ttft_p75_ms", "peak_mem_gib"),
)
"""Names of :func:`axis_values` that differ from one execution to the next."""


def cost_of(name: str) -> Cost:
    """The cost of that name; raises ``ValueError`` naming the choices."""
    if name not in COSTS:
        raise ValueError(f"report.cost={name}: must be one of {', '.join(COSTS)}")
    return COSTS[name]


def axis_values(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """Every number of a summary that a point of a frontier has; ``None`` where the run does not know it.

    These are the columns of ``pareto.csv``, and ``axis/NAME`` of a W&B run.
    """
    low, high = summary.get("accuracy_ci95") or (None, None)
    tokens, frame_ms, ttft_ms = (summary.get(key) or {} for key in ("tokens_per_frame", "frame_ms", "ttft_ms"))
    read, kept = ((summary.get("budgets") or {}).get(key) or {} for key in ("tokens_read", "bytes_kept"))
    flops = summary.get("flops_per_frame") or {}
    held = [size for size in (summary.get("kv_bytes") or {}).values() if size is not None]
    return {
        "requested_tokens": tokens.get("requested"),
        "achieved_tokens": tokens.get("achieved"),
        "requested_tokens_read": read.get("requested"),
        "tokens_read": read.get("mean"),
        "tokens_read_max_layer": read.get("max_layer"),
        "kept_mib": kept["max"] / MIB if kept.get("max") is not None else None,
        "update_ratio": summary.get("update_ratio"),
        "accuracy": summary.get("accuracy"),
        "accuracy_low": low,
        "accuracy_high": high,
        "coverage": summary.get("coverage"),
        "num_questions": summary.get("num_questions"),
        "flops_per_frame": sum(flops.values()) if flops else None,
        "kv_mib": sum(held) / MIB if held else None,
        "latency_ms": frame_ms.get("mean"),
        **{f"latency_{key}_ms": frame_ms.get(key) for key in ("median", "p25", "p75", "p90")},
        "ttft_ms": ttft_ms.get("median"),
        **{f"ttft_{key}_ms": ttft_ms.get(key) for key in ("p25", "p75")},
        "peak_mem_gib": summary.get("peak_mem_gib"),
    }

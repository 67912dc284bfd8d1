"""What a frontier is drawn over: accuracy, and one of several costs."""

from __future__ import annotations

from dataclasses import dataclass

ACCURACY = "share of scored questions answered right, failed and unanswered counted as wrong; higher is better"


@dataclass(frozen=True)
class Cost:
    """A cost of a run: lower is better.

    ``column`` of the table of points holds it; ``spread`` names the columns of its quartiles. ``is_time``: it wavers
    from run to run and holds for one device. ``show`` is a format for one value.
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
        Cost("memory", "kv_mib", "keys and values (MiB)",
             "largest size of the keys and values of a stream, on the device and on the host", show="{:.3g}"),
        Cost(
            "ttft", "ttft_ms", "time to first token (ms)",
            "median time from question to first token after warm-up; bars: its middle half",
            spread=("ttft_p25_ms", "ttft_p75_ms"), is_time=True,
        ),
    )
}  # fmt: skip


def cost_of(name: str) -> Cost:
    """The cost of that name; raises ``ValueError`` naming the choices."""
    if name not in COSTS:
        raise ValueError(f"report.cost={name}: must be one of {', '.join(COSTS)}")
    return COSTS[name]

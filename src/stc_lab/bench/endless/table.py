"""The result in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from stc_lab.bench.endless.run import Endless, Growth
from stc_lab.bench.endless.sizes import Range

TEXTS = ("backbone",)
COLUMNS = (
    "backbone", "frame early", "late", "late / early", "memory early", "late", "late / early", "tokens", "device",
    "predicted", "host", "predicted",
)  # fmt: skip
UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def as_table(results: Sequence[Endless], refused: Mapping[str, str], title: str) -> Table:
    """One line per backbone; ``refused``: reasons why one was not run."""
    table = Table(title=title)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in TEXTS else "right", no_wrap=True)
    for result in results:
        table.add_row(*_cells(result))
    table.caption = "\n".join(
        [
            "ms per frame in the second (early) and last (late) tenth of the stream, measured in alternation: medians, "
            "quartiles of the ratio; memory: the step into the memory alone. Sizes: at the end, against the formula.",
            *(f"{name}: {reason}" for name, reason in refused.items()),
            *(f"NOT AS PREDICTED: {result.backbone} {miss}" for result in results for miss in result.misses),
        ]
    )
    return table


def _cells(result: Endless) -> tuple[str, ...]:
    end = result.checkpoints[-1]
    stats, sizes = end.stats, end.sizes
    return (
        result.backbone,
        *_growth(result.frame),
        *_growth(result.memory),
        f"{stats['num_tokens']:,}",
        amount(stats["kv_bytes_device"]),
        _range(sizes.device),
        amount(stats["kv_bytes_host"]),
        _range(sizes.host),
    )


def _growth(growth: Growth) -> tuple[str, str, str]:
    low, high = growth.ratio_quartiles
    return f"{growth.early_ms:.2f}", f"{growth.late_ms:.2f}", f"{growth.ratio:.2f} ({low:.2f} .. {high:.2f})"


def _range(wanted: Range) -> str:
    return "exact" if wanted.is_exact else f"{amount(wanted.low)} .. {amount(wanted.high)}"


def amount(num_bytes: int) -> str:
    """Bytes in a decimal unit."""
    for unit, size in UNITS:
        if num_bytes >= size:
            return f"{num_bytes / size:.2f} {unit}"
    return f"{num_bytes} B"

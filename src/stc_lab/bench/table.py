"""The result in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from stc_lab.bench.rows import OVERHEAD_LIMITS, Row

TEXTS = ("part", "per", "size", "method")
COLUMNS = (*TEXTS, "layers", "tokens", "none", "compressed", "own work", "saved", "quartiles", "bound")


def as_table(rows: Sequence[Row], device: str) -> Table:
    """One line per row; milliseconds are per frame and for the layers that were run."""
    table = Table(title=f"Time, compressed against uncompressed ({device}, random weights)")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in TEXTS else "right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row))
    table.caption = (
        "ms for all layers, from those that were run; saved: share of the time, quartiles over pairs "
        "measured in alternation; bound: share of the FLOPs. Vision: blocks only, median, a still picture with noise; "
        "own work: all but matrix products of a frame not computed in full, as share of a dense frame. Prefill: mean "
        "of a stream, with pruning (ReKV), else median; own work: pruning, as share of the time it saves. !: above "
        f"{OVERHEAD_LIMITS['vision']:.0%} (vision) or {OVERHEAD_LIMITS['prefill']:.0%} (others)"
    )
    return table


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.part,
        row.unit,
        row.sizes,
        row.method,
        f"{row.num_layers} of {row.full_layers}",
        "" if row.tokens is None else f"{row.tokens[1]} of {row.tokens[0]}",
        f"{row.uncompressed_ms:.1f} ms",
        *_compressed(row),
    )


def _compressed(row: Row) -> tuple[str, ...]:
    if row.compressed_ms is None:
        return ("",) * 5
    low, high = row.saved_quartiles
    return (
        f"{row.compressed_ms:.1f} ms",
        _own_work(row),
        f"{row.saved:.1%}",
        f"{low:.1%} .. {high:.1%}",
        f"{row.bound:.1%}",
    )


def _own_work(row: Row) -> str:
    if row.overhead_ms is None:
        return ""
    share = "" if row.overhead_share is None else f" ({row.overhead_share:.1%})"
    return f"{'! ' if row.is_heavy else ''}{row.overhead_ms:.1f} ms{share}"

"""One line of the result, a method against no method at one size; and the table of all lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.table import Table

from stc_lab.measure.timer import StageTimer


def time_ms(device: torch.device, work: Callable[[], object]) -> float:
    """Milliseconds of ``work``, until the device has finished."""
    timer = StageTimer(device)
    with timer.stage("work"):
        work()
    return timer.drain()["work"]


class Deadline:
    """Passes ``limit_s`` seconds after it was made (``None``: never)."""

    def __init__(self, limit_s: float | None) -> None:
        self._end_s = None if limit_s is None else time.monotonic() + limit_s

    def has_passed(self) -> bool:
        """Whether measuring should stop."""
        return self._end_s is not None and time.monotonic() > self._end_s


OVERHEAD_LIMITS = {"vision": 0.06, "prefill": 0.05, "question": 0.05}
"""Shares of own work from which on a method gives away a noticeable part of what it saves."""


@dataclass(frozen=True)
class Row:
    """Times are per ``unit`` and for all ``full_layers``, from the ``num_layers`` that were run.

    ``saved`` is a share of the time, with its quartiles over pairs that were measured in alternation.
    ``bound``: share of the FLOPs that the method does not need, which is what it could save at most if time
    followed FLOPs; ``overhead_ms``: the method's own work, part of ``compressed_ms``. For a cacher all but the matrix
    products of a frame that is not computed in full, and ``overhead_share`` is its share of a dense frame; for a
    pruner the time of pruning, probing of the tower included, and its share of the prefill time that pruning saves.
    ``None`` where there is no such frame or saving. ``num_pairs``: measurements; ``num_frames``: frames behind them,
    of one stream. A step that no method changes has no ``compressed_ms`` and what follows from it. ``unit``: a frame, a
    pair of frames that the tower takes together, or a question.
    """

    part: str
    sizes: str
    method: str
    setting: str
    num_layers: int
    full_layers: int
    uncompressed_ms: float
    num_pairs: int
    num_frames: int
    compressed_ms: float | None = None
    saved: float | None = None
    saved_quartiles: tuple[float, float] | None = None
    bound: float | None = None
    overhead_ms: float | None = None
    overhead_share: float | None = None
    tokens: tuple[int, int] | None = None
    unit: str = "frame"

    @property
    def is_heavy(self) -> bool:
        """Whether the method's own work is above the limit for its part."""
        return self.overhead_share is not None and self.overhead_share > OVERHEAD_LIMITS[self.part]


def saved_shares(uncompressed_ms: Sequence[float], compressed_ms: Sequence[float]) -> np.ndarray:
    """Share of the time saved, pair by pair."""
    return 1 - np.asarray(compressed_ms) / np.asarray(uncompressed_ms)


def quartiles(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Lower and upper quartile."""
    # The middle half, which a few disturbed measurements do not move.
    low, high = np.percentile(values, (25, 75))
    return float(low), float(high)


def median(values: Sequence[float] | np.ndarray) -> float:
    """Median as a plain number."""
    return float(np.median(values))


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

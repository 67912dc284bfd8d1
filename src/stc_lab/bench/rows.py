"""One line of the result: a method against no method, at one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
    low, high = np.percentile(values, (25, 75))
    return float(low), float(high)


def median(values: Sequence[float] | np.ndarray) -> float:
    """Median as a plain number."""
    return float(np.median(values))

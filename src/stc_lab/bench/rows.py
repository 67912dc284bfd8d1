"""One line of the result: a method against no method, at one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Row:
    """Times are per frame and for all ``full_layers``, from the ``num_layers`` that were run.

    ``saved`` is a share of the time, with its quartiles over pairs that were measured in alternation.
    ``bound``: share of the FLOPs that the method does not need, which is what it could save at most if time
    followed FLOPs; ``overhead_ms``: the method's own work, part of ``compressed_ms`` where it can be told apart.
    ``num_pairs``: measurements; ``num_frames``: frames behind them, of one stream.
    """

    part: str
    sizes: str
    method: str
    setting: str
    num_layers: int
    full_layers: int
    uncompressed_ms: float
    compressed_ms: float
    saved: float
    saved_quartiles: tuple[float, float]
    bound: float
    num_pairs: int
    num_frames: int
    overhead_ms: float | None = None
    tokens: tuple[int, int] | None = None


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

"""Whole numbers with an exact total, as near as possible to what was wished for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def apportion(quotas: Sequence[float], total: int, most: int) -> list[int]:
    """Counts from 1 to ``most`` that add up to ``total`` and follow ``quotas`` (largest deviations are served first).

    ``total`` must lie between one and ``most`` for each. Of equal deviations the first wins.
    """
    wished = np.asarray(quotas, dtype=np.float64)
    assert len(wished) <= total <= most * len(wished), "no counts from 1 to most have this total"
    counts = np.clip(np.rint(wished), 1, most).astype(int)
    while gap := total - int(counts.sum()):
        step = 1 if gap > 0 else -1
        may_move = counts < most if step > 0 else counts > 1
        counts[np.where(may_move, step * (wished - counts), -np.inf).argmax()] += step
    return counts.tolist()

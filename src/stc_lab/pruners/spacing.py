"""Exact numbers of tokens: evenly spread over a frame, and divided among the frames of a window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def even_rows(grid: tuple[int, int], num_kept: int) -> list[int]:
    """How many of ``num_kept`` cells each row of an even arrangement holds; as many entries as rows are used.

    As many rows of ``grid`` (rows, columns) are used as make the spacing alike in both directions; their shares
    differ by at most one cell. A number that is a grid of the same proportions gives that grid.
    """
    rows, columns = grid
    wanted = round((num_kept * rows / columns) ** 0.5)
    fewest, most = -(-num_kept // columns), min(rows, num_kept)
    num_rows = min(max(wanted, fewest), most)
    return np.diff(np.arange(num_rows + 1) * num_kept // num_rows).tolist()


def even_grid(grid: tuple[int, int], num_kept: int) -> np.ndarray:
    """Ascending row-major indices of ``num_kept`` cells of ``grid`` (rows, columns), evenly spread."""
    rows, columns = grid
    shares = even_rows(grid, num_kept)
    cells = [row * columns + _even(columns, share) for row, share in zip(_even(rows, len(shares)), shares, strict=True)]
    return np.concatenate(cells)


def spread(num_tokens: int, grid: tuple[int, int], num_kept: int) -> np.ndarray:
    """``even_grid`` for full frames; in reading order alone where the tokens are no full frame."""
    return even_grid(grid if num_tokens == grid[0] * grid[1] else (1, num_tokens), num_kept)


def _even(length: int, count: int) -> np.ndarray:
    """Centres of ``count`` equal parts of ``range(length)``."""
    return (2 * np.arange(count) + 1) * length // (2 * count)


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

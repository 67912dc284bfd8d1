"""A regular grid over the frame: the baseline that looks at no content."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stc_lab.pruners.base import FrameContext, Pruner


@dataclass(frozen=True, kw_only=True)
class UniformPruner(Pruner):
    """Keeps exactly the budget, spread over rows and columns as evenly as it goes; the same in every frame."""

    name: str = "uniform"

    def select(self, tokens: Tensor, state: Any, context: FrameContext) -> Tensor:
        if len(tokens) != context.grid[0] * context.grid[1]:
            raise ValueError(f"pruner=uniform needs full frames, not {len(tokens)} tokens of a {context.grid} grid")
        kept = even_grid(context.grid, self.num_kept(len(tokens)))
        return torch.from_numpy(kept).to(tokens.device)


def even_grid(grid: tuple[int, int], num_kept: int) -> np.ndarray:
    """Ascending row-major indices of ``num_kept`` cells of ``grid`` (rows, columns), evenly spread.

    As many rows are used as make the spacing alike in both directions; their shares differ by at most one cell.
    """
    rows, columns = grid
    wanted = round((num_kept * rows / columns) ** 0.5)
    fewest, most = -(-num_kept // columns), min(rows, num_kept)
    num_rows = min(max(wanted, fewest), most)
    edges = np.arange(num_rows + 1) * num_kept // num_rows
    cells = [
        row * columns + _even(columns, int(share))
        for row, share in zip(_even(rows, num_rows), np.diff(edges), strict=True)
    ]
    return np.concatenate(cells)


def _even(length: int, count: int) -> np.ndarray:
    """Centres of ``count`` equal parts of ``range(length)``."""
    return (2 * np.arange(count) + 1) * length // (2 * count)

"""Average pooling to a coarser grid: the baseline that sees everything, blurred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from stc_lab.pruners.base import FrameContext, Pruner, even_grid, even_rows
from stc_lab.types import VisualTokens, precise


@dataclass(frozen=True, kw_only=True)
class DownsamplePruner(Pruner):
    """Pools a frame to the budget: each token is the mean of an equal part of the frame, weighted by area.

    A budget that is a grid of the frame's proportions (64 of 14x14: 8x8) gives that grid. Any other is met exactly
    by rows that differ by one token in length (98: eight rows of ten and two of nine), since the largest regular
    grid within it would fall short of what other methods have. ``sizes`` of the result are areas in tokens.
    """

    uses_places: ClassVar[bool] = True

    name: str = "downsample"

    def compress_window(
        self, frames: Sequence[VisualTokens], state: Any, contexts: Sequence[FrameContext]
    ) -> list[VisualTokens]:
        return [self._pool(frame, context.grid) for frame, context in zip(frames, contexts, strict=True)]

    def flops(self, num_tokens: int, dim: int) -> int:
        """One product with the weights of all tokens in all parts."""
        return 2 * self.num_kept(num_tokens) * num_tokens * dim

    def _pool(self, frame: VisualTokens, grid: tuple[int, int]) -> VisualTokens:
        if frame.num_tokens != grid[0] * grid[1]:
            raise ValueError(f"pruner=downsample needs full frames, not {frame.num_tokens} tokens of a {grid} grid")
        num_kept = self.num_kept(frame.num_tokens)
        tokens = precise(frame.tokens)
        # A token is the mean of its part of the frame, each cell weighted by the area that lies in it.
        areas = torch.from_numpy(_parts(grid, num_kept)).to(tokens)
        pooled = (areas / areas.sum(1, keepdim=True)) @ tokens
        sizes = areas @ (areas.new_ones(frame.num_tokens) if frame.sizes is None else frame.sizes.to(areas))
        cells = torch.from_numpy(even_grid(grid, num_kept)).to(tokens.device)
        return replace(frame, tokens=pooled.to(frame.tokens.dtype), positions=frame.positions[cells], sizes=sizes)


def _parts(grid: tuple[int, int], num_kept: int) -> np.ndarray:
    """Area [num_kept, rows * columns] that each part of the frame has of each cell."""
    shares = even_rows(grid, num_kept)
    bands = _overlaps(grid[0], len(shares))
    parts = [np.einsum("r,kc->krc", band, _overlaps(grid[1], k)) for band, k in zip(bands, shares, strict=True)]
    return np.concatenate(parts).reshape(num_kept, -1)


def _overlaps(length: int, count: int) -> np.ndarray:
    """Length [count, length] that each of ``count`` equal parts of a line has of each of its ``length`` cells."""
    edges = np.arange(count + 1) * length / count
    cells = np.arange(length)
    upper = np.minimum(edges[1:, None], cells + 1)
    return np.clip(upper - np.maximum(edges[:-1, None], cells), 0.0, None)

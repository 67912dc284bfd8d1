"""A regular grid over the frame: the baseline that looks at no content."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stc_lab.pruners.base import FrameContext, FramePruner, even_grid


@dataclass(frozen=True, kw_only=True)
class UniformPruner(FramePruner):
    """Keeps exactly the budget, spread over rows and columns as evenly as it goes; the same in every frame."""

    name: str = "uniform"

    def select(self, tokens: Tensor, state: Any, context: FrameContext) -> Tensor:
        if len(tokens) != context.grid[0] * context.grid[1]:
            raise ValueError(f"pruner=uniform needs full frames, not {len(tokens)} tokens of a {context.grid} grid")
        kept = even_grid(context.grid, self.num_kept(len(tokens)))
        return torch.from_numpy(kept).to(tokens.device)

"""No pruning: every token goes to the language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stc_lab.pruners.base import FrameContext, FramePruner


@dataclass(frozen=True, kw_only=True)
class NoPruner(FramePruner):
    """Keeps everything. A budget is accepted and ignored, so that it can stand beside others in a multirun."""

    name: str = "none"

    def __post_init__(self) -> None:
        """No budget is wrong where none is used."""

    def num_kept(self, num_tokens: int) -> int:
        return num_tokens

    def select(self, tokens: Tensor, state: Any, context: FrameContext) -> Tensor:
        return torch.arange(len(tokens), device=tokens.device)

"""The longest token vectors: the baseline that takes size for importance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stc_lab.pruners.base import ScorePruner


@dataclass(frozen=True, kw_only=True)
class MagnitudePruner(ScorePruner):
    """Keeps the tokens with the largest Euclidean length (the smallest with ``largest=False``), frame by frame."""

    largest: bool = True
    name: str = "magnitude"

    def score(self, tokens: Tensor, state: Any) -> Tensor:
        length = torch.linalg.vector_norm(tokens, dim=-1)
        return length if self.largest else -length

    def flops(self, num_tokens: int, dim: int) -> int:
        """Length of each token."""
        return 2 * num_tokens * dim

"""STC-Pruner as in the paper: keep what differs from the recent past and from the rest of the frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stc_lab.pruners.history import MeanHistory
from stc_lab.pruners.selecting import ScorePruner


@dataclass(frozen=True, kw_only=True)
class STCPruner(ScorePruner):
    """STC-Pruner (arXiv 2512.00891, section 3): distance to a temporal and a spatial anchor.

    ``score = alpha * (1 - cos(token, past)) + (1 - alpha) * (1 - cos(token, frame))``, where ``frame`` is the mean
    of the frame's tokens and ``past`` the mean of these means over the last ``window`` frames before it (``None``:
    all). In the first frame there is no past, and the spatial anchor counts alone. The paper gives no ``window``.
    """

    alpha: float = 0.5
    window: int | None = 8
    name: str = "stc"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.alpha <= 1.0:
            raise ValueError(f"pruner.alpha={self.alpha}: must lie in [0, 1] (1: temporal anchor only)")
        if self.window is not None and self.window < 1:
            raise ValueError(f"pruner.window={self.window}: must be at least 1, or null for the whole past")

    def new_state(self) -> MeanHistory:
        return MeanHistory(self.window)

    def score(self, tokens: Tensor, state: MeanHistory) -> Tensor:
        length = torch.linalg.vector_norm(tokens, dim=-1)
        spatial = _cosine_distance(tokens, length, tokens.mean(1))
        past = state.mean()
        if past is None:
            return spatial
        temporal = _cosine_distance(tokens, length, past.expand(len(tokens), -1))
        return self.alpha * temporal + (1 - self.alpha) * spatial

    def remember(self, tokens: Tensor, state: MeanHistory) -> None:
        for frame in tokens:
            state.add(frame.mean(0))

    def flops(self, num_tokens: int, dim: int) -> int:
        """Length of each token and its product with two anchors."""
        return 6 * num_tokens * dim


def _cosine_distance(tokens: Tensor, length: Tensor, anchor: Tensor) -> Tensor:
    """1 - cosine [F, T] of ``tokens`` [F, T, D], ``length`` [F, T] long, to ``anchor`` [F, D]."""
    along = torch.matmul(tokens, normalize(anchor, dim=-1).unsqueeze(-1)).squeeze(-1)
    return 1 - along / length.clamp_min(1e-8)

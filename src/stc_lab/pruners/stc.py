"""STC-Pruner as in the paper: keep what differs from the recent past and from the rest of the frame."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stc_lab.pruners.base import ScorePruner


class MeanHistory:
    """Mean of the last ``window`` vectors added, or of all of them (``None``), in memory that does not grow."""

    def __init__(self, window: int | None) -> None:
        self._recent: deque[Tensor] | None = None if window is None else deque(maxlen=window)
        self._mean: Tensor | None = None
        self._count = 0

    def add(self, vector: Tensor) -> None:
        """Add ``vector`` [D]; beyond the window the oldest one goes."""
        if self._recent is not None:
            self._recent.append(vector)
            self._mean = torch.stack(tuple(self._recent)).mean(0)
        else:
            self._mean = self.mean_with(vector)
            self._count += 1

    def mean(self) -> Tensor | None:
        """Mean [D] of what is remembered; ``None`` while that is nothing."""
        return self._mean

    def mean_with(self, vector: Tensor) -> Tensor:
        """Mean [D] as it would be if ``vector`` were added to an unlimited history."""
        assert self._recent is None, "a window would have to drop its oldest vector"
        return vector if self._mean is None else self._mean + (vector - self._mean) / (self._count + 1)


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
        # Spatial anchor: the mean of the frame.
        length = torch.linalg.vector_norm(tokens, dim=-1)
        spatial = _cosine_distance(tokens, length, tokens.mean(1))
        past = state.mean()
        if past is None:
            return spatial
        # Temporal anchor: the mean of the frames before, each one token.
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

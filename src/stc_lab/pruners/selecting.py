"""Base classes of methods that drop tokens: frame by frame, or the lowest scores of a window."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stc_lab.pruners.base import Pruner
from stc_lab.pruners.context import FrameContext
from stc_lab.types import VisualTokens


@dataclass(frozen=True, kw_only=True)
class FramePruner(Pruner):
    """A method that looks at one frame at a time and says which tokens to keep."""

    @abstractmethod
    def select(self, tokens: Tensor, state: Any, context: FrameContext) -> Tensor:
        """Ascending indices of the tokens to keep, of the next frame's ``tokens`` [T, D]; advances ``state``."""

    def compress_window(
        self, frames: Sequence[VisualTokens], state: Any, contexts: Sequence[FrameContext]
    ) -> list[VisualTokens]:
        return [frame.keep(self.select(frame.tokens, state, c)) for frame, c in zip(frames, contexts, strict=True)]


@dataclass(frozen=True, kw_only=True)
class ScorePruner(Pruner):
    """A method that keeps the tokens with the highest scores; of equal scores the earlier token.

    Scores are computed in float32 at least. :meth:`plan` may divide the budget of a window among its frames.
    """

    @abstractmethod
    def score(self, tokens: Tensor, state: Any) -> Tensor:
        """Scores [F, T] of ``tokens`` [F, T, D] (one window); higher is kept. Leaves ``state`` as it is."""

    def plan(self, tokens: Tensor, state: Any) -> tuple[Tensor, list[int]]:
        """Scores [F, T] of a window, and the tokens kept of each frame: ``num_kept`` for each, or the same in all."""
        return self.score(tokens, state), [self.num_kept(tokens.shape[1])] * len(tokens)

    def remember(self, tokens: Tensor, state: Any) -> None:
        """Take the scored window ``tokens`` [F, T, D] into ``state``."""

    def compress_window(
        self, frames: Sequence[VisualTokens], state: Any, contexts: Sequence[FrameContext]
    ) -> list[VisualTokens]:
        tokens = precise(torch.stack([frame.tokens for frame in frames]))
        scores, budgets = self.plan(tokens, state)
        self.remember(tokens, state)
        order = scores.argsort(dim=1, descending=True, stable=True)
        return [
            frame.keep(indices[:budget].sort().values)
            for frame, indices, budget in zip(frames, order, budgets, strict=True)
        ]


def precise(tokens: Tensor) -> Tensor:
    """``tokens`` in float32 at least."""
    return tokens.to(torch.promote_types(tokens.dtype, torch.float32))

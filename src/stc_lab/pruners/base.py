"""What every pruner is: frozen settings, a budget that means the same for all, and a state per stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, isqrt
from typing import Any, ClassVar

import torch
from torch import Tensor

from stc_lab.types import VisualTokens


@dataclass(frozen=True)
class FrameContext:
    """What a method may look at besides the tokens of a frame: ``grid`` is (rows, columns) of the full frame."""

    grid: tuple[int, int]
    timestamp_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Pruner(ABC):
    """Settings of a token reduction method. A leaf implements ``select``; all that changes lives in the state.

    ``budget`` (tokens kept per frame) and ``keep_ratio`` (share kept, rounded down, at least one) exclude each
    other; without either the budget is ``default_budget``. ``window_frames`` is how many frames the method looks
    at together: a session that wants its full effect hands over that many per call, fewer are legal at any time.
    """

    budget: int | None = None
    keep_ratio: float | None = None

    default_budget: ClassVar[int] = 64
    window_frames: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.budget is not None and self.keep_ratio is not None:
            raise ValueError(
                f"pruner.budget={self.budget} and pruner.keep_ratio={self.keep_ratio} contradict: give one of them"
            )
        if self.budget is not None and (not isinstance(self.budget, int) or self.budget < 1):
            raise ValueError(f"pruner.budget={self.budget}: must be a whole number from 1 to the tokens per frame")
        if self.keep_ratio is not None and not 0.0 < self.keep_ratio <= 1.0:
            raise ValueError(f"pruner.keep_ratio={self.keep_ratio}: must lie in (0, 1]")

    def num_kept(self, num_tokens: int) -> int:
        """Tokens kept of a frame of ``num_tokens``. Raises ``ValueError`` where the budget exceeds them."""
        if self.keep_ratio is not None:
            return max(1, floor(num_tokens * self.keep_ratio + 1e-9))  # binary fractions: 0.29 of 100 is 29
        budget = self.default_budget if self.budget is None else self.budget
        if budget > num_tokens:
            raise ValueError(
                f"pruner.budget={budget}: a frame has {num_tokens} tokens, so the budget must lie in 1..{num_tokens}"
            )
        return budget

    def check(self, tokens_per_frame: int) -> None:
        """Raise ``ValueError`` where the settings do not fit frames of ``tokens_per_frame`` tokens."""
        self.num_kept(tokens_per_frame)

    def new_state(self) -> Any:
        """State for the start of a stream; ``None`` for methods that remember nothing."""
        return None

    @abstractmethod
    def select(self, tokens: Tensor, state: Any, context: FrameContext) -> Tensor:
        """Ascending indices of the tokens to keep, of the next frame's ``tokens`` [T, D]; advances ``state``."""

    def flops(self, num_tokens: int, dim: int) -> int:
        """The method's own work for one frame: two per multiply-accumulate, products of whole tokens only."""
        return 0

    def compress(
        self, frames: Sequence[VisualTokens], state: Any, context: Sequence[FrameContext] | None = None
    ) -> list[VisualTokens]:
        """Reduce the next frames of a stream, in time order. ``context``: one per frame, made here if not given."""
        contexts = context or [FrameContext(frame.grid, frame.timestamp_s) for frame in frames]
        reduced = []
        for start in range(0, len(frames), self.window_frames):
            window = slice(start, start + self.window_frames)
            reduced += self.compress_window(frames[window], state, contexts[window])
        return reduced

    def compress_window(
        self, frames: Sequence[VisualTokens], state: Any, contexts: Sequence[FrameContext]
    ) -> list[VisualTokens]:
        """Reduce at most ``window_frames`` frames together."""
        return [frame.keep(self.select(frame.tokens, state, c)) for frame, c in zip(frames, contexts, strict=True)]

    def __call__(
        self, tokens: Tensor, state: Any = None, grid: tuple[int, int] | None = None
    ) -> VisualTokens | list[VisualTokens]:
        """Explicit call on plain tensors: ``tokens`` [T, D] gives one reduced frame, [F, T, D] a list of F.

        Without ``state`` the frames are a stream of their own. ``grid`` is needed where T is not a square number.
        """
        state = self.new_state() if state is None else state
        stacked = tokens if tokens.dim() == 3 else tokens.unsqueeze(0)
        grid = grid or _square_grid(stacked.shape[1])
        reduced = self.compress([VisualTokens.full(frame, grid, 0.0) for frame in stacked], state)
        return reduced if tokens.dim() == 3 else reduced[0]


@dataclass(frozen=True, kw_only=True)
class ScorePruner(Pruner):
    """A method that keeps the tokens with the highest scores; of equal scores the earlier token."""

    @abstractmethod
    def score(self, tokens: Tensor, state: Any) -> Tensor:
        """Scores [F, T] of ``tokens`` [F, T, D] (one window); higher is kept. Leaves ``state`` as it is."""

    def remember(self, tokens: Tensor, state: Any) -> None:
        """Take the scored window ``tokens`` [F, T, D] into ``state``."""

    def select(self, tokens: Tensor, state: Any, context: FrameContext) -> Tensor:
        return self._select_window(tokens.unsqueeze(0), state)[0]

    def compress_window(
        self, frames: Sequence[VisualTokens], state: Any, contexts: Sequence[FrameContext]
    ) -> list[VisualTokens]:
        kept = self._select_window(torch.stack([frame.tokens for frame in frames]), state)
        return [frame.keep(indices) for frame, indices in zip(frames, kept, strict=True)]

    def _select_window(self, tokens: Tensor, state: Any) -> Tensor:
        """Ascending indices [F, K] of the tokens kept in each frame of a window."""
        num_kept = self.num_kept(tokens.shape[1])
        precise = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        order = self.score(precise, state).argsort(dim=1, descending=True, stable=True)
        self.remember(precise, state)
        return order[:, :num_kept].sort(dim=1).values


def _square_grid(num_tokens: int) -> tuple[int, int]:
    side = isqrt(num_tokens)
    if side * side != num_tokens:
        raise ValueError(f"{num_tokens} tokens are no square frame: pass grid=(rows, columns)")
    return side, side

"""What every pruner is: frozen settings, a budget that means the same for all, and a state per stream.

A method derives from ``Pruner``, or from ``FramePruner`` (which tokens of one frame), or from ``ScorePruner`` (the
highest scores of a window).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from stc_lab.types import VisualTokens, precise, share


@dataclass(frozen=True)
class FrameContext:
    """Facts about one frame. ``grid`` is (rows, columns) of the full frame.

    The rest comes from the vision tower, brought to the tokens of the frame, and only for methods that name it in
    ``needs``. ``attention_received`` [T]: attention of the class token to each token, summed over heads, or in a
    tower without one what each token receives from all tokens on average. ``keys`` [T, heads, head size]: the key
    projections of that layer.
    """

    grid: tuple[int, int]
    timestamp_s: float = 0.0
    attention_received: Tensor | None = None
    keys: Tensor | None = None

    def require(self, needs: Collection[str], method: str) -> None:
        """Raise ``ValueError`` where something that ``method`` needs is missing."""
        missing = sorted(name for name in needs if getattr(self, name) is None)
        if missing:
            raise ValueError(
                f"{method} needs {' and '.join(missing)} of the vision tower: pass context=[FrameContext(...), ...], "
                "one per frame (stc_lab.vision.TokenSaliency measures them)"
            )


@dataclass(frozen=True, kw_only=True)
class Pruner(ABC):
    """Settings of a token reduction method. All that changes during a stream lives in the state.

    ``budget`` (tokens kept per frame) and ``keep_ratio`` (share kept, rounded down, at least one) exclude each
    other; without either the budget is ``default_budget``. ``window_frames`` is how many frames the method looks
    at together: a session that wants its full effect hands over that many per call, fewer are legal at any time.
    A method may divide a window's budget among its frames; the total of a window is exact, of a short one as well.
    ``needs`` names what it wants to know of a frame besides its tokens (see ``FrameContext``); ``uses_places``:
    whether it compares or joins tokens by their place in the frame, which merged tokens do not have.
    """

    budget: int | None = None
    keep_ratio: float | None = None

    default_budget: ClassVar[int] = 64
    window_frames: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset()
    uses_places: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.budget is not None and self.keep_ratio is not None:
            raise ValueError(
                f"pruner.budget={self.budget} and pruner.keep_ratio={self.keep_ratio} contradict: give one of them"
            )
        if self.budget is not None and (not isinstance(self.budget, int) or self.budget < 1):
            raise ValueError(f"pruner.budget={self.budget}: must be a whole number from 1 to the tokens per frame")
        if self.keep_ratio is not None and not 0.0 < self.keep_ratio <= 1.0:
            raise ValueError(f"pruner.keep_ratio={self.keep_ratio}: must lie in (0, 1]")
        if vars(self).get("window_frames", 1) < 1:
            raise ValueError(f"pruner.window_frames={self.window_frames}: must be at least 1")

    def num_kept(self, num_tokens: int) -> int:
        """Tokens kept of a frame of ``num_tokens``. Raises ``ValueError`` where the budget exceeds them."""
        if self.keep_ratio is not None:
            return max(1, share(num_tokens, self.keep_ratio))
        budget = self.default_budget if self.budget is None else self.budget
        if budget > num_tokens:
            raise ValueError(
                f"pruner.budget={budget}: a frame has {num_tokens} tokens, so the budget must lie in 1..{num_tokens}"
            )
        return budget

    def max_kept(self, num_tokens: int) -> int:
        """Most tokens that a single frame may keep: above ``num_kept`` where a window divides its budget.

        Raises ``ValueError`` as ``num_kept`` does.
        """
        return self.num_kept(num_tokens)

    def check(self, tokens_per_frame: int) -> None:
        """Raise ``ValueError`` where the settings do not fit frames of ``tokens_per_frame`` tokens."""
        self.num_kept(tokens_per_frame)

    def new_state(self) -> Any:
        """State for the start of a stream; ``None`` for methods that remember nothing."""
        return None

    def flops(self, num_tokens: int, dim: int) -> int:
        """The method's own work for one frame: two per multiply-accumulate, products of whole tokens only."""
        return 0

    def compress(
        self, frames: Sequence[VisualTokens], state: Any, context: Sequence[FrameContext] | None = None
    ) -> list[VisualTokens]:
        """Reduce the next frames of a stream, in time order. ``context``: one per frame, made here if not given.

        Raises ``ValueError`` when the method needs more than the tokens and ``context`` does not have it.
        """
        contexts = context or [FrameContext(frame.grid, frame.timestamp_s) for frame in frames]
        for frame_context in contexts:
            frame_context.require(self.needs, type(self).__name__)
        reduced = []
        # Windows are counted from the first of these frames; a session hands over one at a time.
        for start in range(0, len(frames), self.window_frames):
            window = slice(start, start + self.window_frames)
            reduced += self.compress_window(frames[window], state, contexts[window])
        return reduced

    @abstractmethod
    def compress_window(
        self, frames: Sequence[VisualTokens], state: Any, contexts: Sequence[FrameContext]
    ) -> list[VisualTokens]:
        """Reduce at most ``window_frames`` frames together; advances ``state``."""

    def __call__(
        self,
        tokens: Tensor,
        state: Any = None,
        grid: tuple[int, int] | None = None,
        context: Sequence[FrameContext] | None = None,
    ) -> VisualTokens | list[VisualTokens]:
        """Explicit call on plain tensors: ``tokens`` [T, D] gives one reduced frame, [F, T, D] a list of F.

        Without ``state`` the frames are a stream of their own. ``grid`` is needed where T is not a square number,
        ``context`` (one per frame) where the method needs more than tokens.
        """
        state = self.new_state() if state is None else state
        stacked = tokens if tokens.dim() == 3 else tokens.unsqueeze(0)
        grid = grid or (context[0].grid if context else _square_grid(stacked.shape[1]))
        reduced = self.compress([VisualTokens.full(frame, grid, 0.0) for frame in stacked], state, context)
        return reduced if tokens.dim() == 3 else reduced[0]


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

    Scores are computed in float32 at least. ``plan`` may divide the budget of a window among its frames.
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
        # The window becomes history once it is scored.
        self.remember(tokens, state)
        # A stable sort: of equal scores the earlier token is kept.
        order = scores.argsort(dim=1, descending=True, stable=True)
        return [
            frame.keep(indices[:budget].sort().values)
            for frame, indices, budget in zip(frames, order, budgets, strict=True)
        ]


def _square_grid(num_tokens: int) -> tuple[int, int]:
    side = isqrt(num_tokens)
    if side * side != num_tokens:
        raise ValueError(f"{num_tokens} tokens are no square frame: pass grid=(rows, columns)")
    return side, side


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

"""The last frames whole and nothing of the others: the baseline that looks at the clock alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stc_lab.pruners.base import FrameContext, Pruner, spread
from stc_lab.types import VisualTokens


@dataclass(frozen=True, kw_only=True)
class RecentPruner(Pruner):
    """Whole recent frames at the same total (SimpleStream's finding, arXiv 2604.02317, as a pruner).

    Only a question says what is recent, and a frame that the language model has read cannot be taken back. So frames
    wait, until ``window_frames`` of them are there or a question comes; then the newest are kept whole, as many as
    the budget of those that waited pays for, and the others vanish. What the last whole frame leaves of the budget
    goes to the frame before, as an even grid, so the total is that of every other method: 16 waiting frames at 64
    tokens become five whole frames of 196 and 44 tokens of a sixth.

    A large ``window_frames`` therefore means: the last frames before the question, read when it is asked. A question
    on a memory that retrieves frames (ReKV: ``topk`` of them) may see more tokens than with other methods, in as
    many frames; ``backbone=recent`` is the baseline without any memory.
    """

    window_frames: int = 16
    name: str = "recent"

    def max_kept(self, num_tokens: int) -> int:
        return min(num_tokens, self.window_frames * self.num_kept(num_tokens))

    def compress_window(
        self, frames: Sequence[VisualTokens], state: None, contexts: Sequence[FrameContext]
    ) -> list[VisualTokens]:
        left = sum(self.num_kept(frame.num_tokens) for frame in frames)
        kept = []
        for frame, context in zip(reversed(frames), reversed(contexts), strict=True):
            count = min(left, frame.num_tokens)
            left -= count
            kept.append(_thinned(frame, context.grid, count))
        return kept[::-1]


def _thinned(frame: VisualTokens, grid: tuple[int, int], num_kept: int) -> VisualTokens:
    cells = spread(frame.num_tokens, grid, num_kept) if num_kept else []
    return frame.keep(torch.as_tensor(cells, dtype=torch.long, device=frame.tokens.device))

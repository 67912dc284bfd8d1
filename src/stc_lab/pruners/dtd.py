"""Differential token drop: keep what changed since the frame before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from stc_lab.pruners.base import FrameContext, ScorePruner, apportion, spread
from stc_lab.types import VisualTokens, precise


@dataclass
class DTDState:
    """Tokens [T, D] of the frame before, all of them; ``None`` at the start."""

    previous: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class DTDPruner(ScorePruner):
    """Differential Token Drop of TimeChat-Online (arXiv 2504.17343, section 3; github yaolinli/TimeChat-Online).

    Each token is compared by cosine with the token at the same place of the frame before (the full frame, pruned or
    not), and the least similar are kept: the method's feature-level variant. Upstream drops above a fixed cosine, so
    that quiet scenes cost little and no budget can be named. Here the threshold is the one that meets the budget:
    frame by frame (as upstream with a relative threshold), or with ``window_frames`` above 1 one threshold for so
    many frames together, so that a frame with more change keeps more, and each at least one token. The first frame
    of a stream has nothing to be compared with; upstream keeps all of it, here its budget is spread evenly.
    """

    uses_places: ClassVar[bool] = True

    window_frames: int = 1
    name: str = "dtd"

    def new_state(self) -> DTDState:
        return DTDState()

    def max_kept(self, num_tokens: int) -> int:
        alone = self.num_kept(num_tokens)
        return alone if self.window_frames == 1 else num_tokens

    def compress_window(
        self, frames: Sequence[VisualTokens], state: DTDState, contexts: Sequence[FrameContext]
    ) -> list[VisualTokens]:
        if state.previous is not None and state.previous.shape == frames[0].tokens.shape:
            return super().compress_window(frames, state, contexts)
        # The first frame of a stream: nothing to compare with, so an even grid.
        first, rest = frames[0], frames[1:]
        cells = spread(first.num_tokens, contexts[0].grid, self.num_kept(first.num_tokens))
        kept = [first.keep(torch.from_numpy(cells).to(first.tokens.device))]
        state.previous = precise(first.tokens)
        return kept + (super().compress_window(rest, state, contexts[1:]) if rest else [])

    def score(self, tokens: Tensor, state: DTDState) -> Tensor:
        """Cosine distance to the frame before; zero for all where there is none."""
        start = tokens[0] if state.previous is None else state.previous
        distance = 1 - cosine_similarity(torch.cat([start[None], tokens[:-1]]), tokens, dim=-1)
        if state.previous is None:
            distance[0] = 0.0
        return distance

    def plan(self, tokens: Tensor, state: DTDState) -> tuple[Tensor, list[int]]:
        scores = self.score(tokens, state)
        num_frames, num_tokens = scores.shape
        total = num_frames * self.num_kept(num_tokens)
        if num_frames == 1:
            return scores, [total]
        # One threshold for the window: the one that its budget meets; a frame with more change keeps more.
        best = scores.flatten().argsort(descending=True, stable=True)[:total]
        counts = torch.bincount(torch.div(best, num_tokens, rounding_mode="floor"), minlength=num_frames)
        return scores, apportion(counts.tolist(), total, num_tokens)

    def remember(self, tokens: Tensor, state: DTDState) -> None:
        state.previous = tokens[-1]

    def flops(self, num_tokens: int, dim: int) -> int:
        """Three dot products per token."""
        return 6 * num_tokens * dim

"""DyCoke's temporal merging: in groups of four frames, one anchor and what differs from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from stc_lab.pruners.base import FrameContext, Pruner, spread
from stc_lab.types import VisualTokens, precise

COMPARED_WITH = (None, 0, 0, 2)
"""For each frame of a group the one that it is compared with: pairs (0, 1) and (2, 3), then their first frames."""


@dataclass(frozen=True, kw_only=True)
class DyCokePruner(Pruner):
    """Temporal token merging of DyCoke (arXiv 2411.15024, section 3.2; github KD-TAO/DyCoke).

    The first frame of a group of four is the anchor. The second and third are compared with it token by token, the
    fourth with the third, by cosine with the full frame; of each pair of similar tokens only the earlier remains.

    Upstream keeps the anchor whole and a fixed share of the others. Here the total of a group is the budget of its
    frames, exactly: the anchor keeps as much as leaves each of the others a quarter of the budget, all if that is
    enough, and the others divide the rest evenly. So at 64 of 196 tokens the anchor is whole and the others keep 20
    each; below a quarter of a frame no anchor can be whole, and it is thinned to an even grid, for which upstream
    has no rule. DyCoke's second stage, pruning the key-value cache while an answer is decoded, is no part of it: it
    depends on the question, and this is about what is remembered before one is asked.
    """

    window_frames: ClassVar[int] = len(COMPARED_WITH)
    uses_places: ClassVar[bool] = True

    name: str = "dycoke"

    def max_kept(self, num_tokens: int) -> int:
        return max(self._group_budgets(size, num_tokens)[0] for size in range(1, self.window_frames + 1))

    def compress_window(
        self, frames: Sequence[VisualTokens], state: None, contexts: Sequence[FrameContext]
    ) -> list[VisualTokens]:
        tokens = precise(torch.stack([frame.tokens for frame in frames]))
        budgets = self._group_budgets(len(frames), tokens.shape[1])
        # The anchor, whole where the budget allows; of the others what differs most from what they are compared with.
        cells = spread(tokens.shape[1], contexts[0].grid, budgets[0])
        kept = [torch.from_numpy(cells).to(tokens.device)]
        for index in range(1, len(frames)):
            kept.append(_least_similar(tokens[index], tokens[COMPARED_WITH[index]], budgets[index]))
        return [frame.keep(indices) for frame, indices in zip(frames, kept, strict=True)]

    def flops(self, num_tokens: int, dim: int) -> int:
        """Three dot products per token in three of four frames, on average."""
        return 6 * num_tokens * dim * (self.window_frames - 1) // self.window_frames

    def _group_budgets(self, num_frames: int, num_tokens: int) -> list[int]:
        """Tokens kept of each frame of a group, the anchor first."""
        budget, num_others = self.num_kept(num_tokens), num_frames - 1
        anchor = min(num_tokens, num_frames * budget - num_others * max(1, budget // 4))
        left = num_frames * budget - anchor
        return [anchor] + [(left + i) // num_others for i in reversed(range(num_others))]


def _least_similar(tokens: Tensor, others: Tensor, num_kept: int) -> Tensor:
    """Ascending indices of the tokens [T, D] least like ``others`` [T, D] at the same place; ties: the earlier."""
    similarity = cosine_similarity(tokens, others, dim=-1)
    return similarity.argsort(stable=True)[:num_kept].sort().values

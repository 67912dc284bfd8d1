"""VisionZip: the tokens that receive most attention, and the rest merged into a few contextual ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stc_lab.pruners.base import FrameContext, Pruner
from stc_lab.types import VisualTokens, precise, share

MERGES = ("mean", "sum")


@dataclass(frozen=True)
class Zip:
    """What becomes of the tokens of a frame: indices, all ascending.

    ``dominant`` stay as they are; ``targets`` become contextual tokens; each of ``others`` goes into the target
    numbered by ``assignment``. Without targets the rest is dropped.
    """

    dominant: Tensor
    targets: Tensor
    others: Tensor
    assignment: Tensor


@dataclass(frozen=True, kw_only=True)
class VisionZipPruner(Pruner):
    """VisionZip (arXiv 2412.04467, section 3; github dvlab-research/VisionZip), frame by frame.

    Dominant tokens receive the most attention in the vision tower: from the class token, in a tower without one
    (SigLIP) from all tokens on average. Of the others every n-th becomes a contextual token, and each of the rest
    joins the one whose keys (mean over heads) are most similar to its own. ``contextual_ratio`` is the contextual
    share of the budget, rounded down (paper: 10 of 64). ``merge``: a contextual token is the mean of all its tokens,
    or, as released, the ``sum`` of the one and the mean of those that joined it.

    Upstream works on the tower's output, here it is the pooled output of the projector, with attention and keys
    pooled alike: the sum is twice as long as any token the language model knows, which is why the mean is the
    default. Dominant tokens come first and contextual ones after them, as upstream.
    """

    contextual_ratio: float = 10 / 64
    merge: Literal["mean", "sum"] = "mean"
    name: str = "visionzip"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.contextual_ratio < 1.0:
            raise ValueError(f"pruner.contextual_ratio={self.contextual_ratio}: must lie in [0, 1)")
        if self.merge not in MERGES:
            raise ValueError(f"pruner.merge={self.merge}: must be one of {', '.join(MERGES)}")

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Attention, and keys where something is merged."""
        return frozenset({"attention_received", "keys"} if self.contextual_ratio else {"attention_received"})

    def compress_window(
        self, frames: Sequence[VisualTokens], state: Any, contexts: Sequence[FrameContext]
    ) -> list[VisualTokens]:
        return [self._zip(frame, context) for frame, context in zip(frames, contexts, strict=True)]

    def flops(self, num_tokens: int, dim: int) -> int:
        """Similarity of the others to the targets (counted at full width) and their merging."""
        num_kept = self.num_kept(num_tokens)
        return 4 * (num_tokens - num_kept) * self._num_contextual(num_kept) * dim

    def plan(self, context: FrameContext) -> Zip:
        """Which of the tokens that ``context`` describes stay, and which go where."""
        attention = precise(context.attention_received)
        budget = self.num_kept(len(attention))
        num_contextual = self._num_contextual(budget)
        # Dominant: those that receive most attention.
        order = attention.argsort(descending=True, stable=True)
        num_dominant = budget - num_contextual
        dominant, rest = order[:num_dominant].sort().values, order[num_dominant:].sort().values
        # Contextual: every n-th of the rest, in reading order.
        if not num_contextual:
            return Zip(dominant, rest[:0], rest[:0], rest[:0])
        step = len(rest) // num_contextual
        groups, left = rest[: step * num_contextual].unflatten(0, (-1, step)), rest[step * num_contextual :]
        targets, others = groups[:, 0], torch.cat([groups[:, 1:].flatten(), left])
        # Each other token joins the contextual one whose keys, mean over the heads, are most like its own.
        metric = normalize(precise(context.keys).mean(1), dim=-1)
        return Zip(dominant, targets, others, (metric[others] @ metric[targets].T).argmax(1))

    def _num_contextual(self, budget: int) -> int:
        return share(budget, self.contextual_ratio)

    def _zip(self, frame: VisualTokens, context: FrameContext) -> VisualTokens:
        plan, tokens = self.plan(context), precise(frame.tokens)
        kept = torch.cat([plan.dominant, plan.targets])
        sizes = tokens.new_ones(len(tokens)) if frame.sizes is None else frame.sizes.to(tokens)
        joined = _summed(tokens, plan)
        counts = _summed(tokens.new_ones(len(tokens), 1), plan)
        if self.merge == "mean":
            contextual = (tokens[plan.targets] + joined) / (1 + counts)
        else:
            contextual = tokens[plan.targets] + joined / counts.clamp_min(1)
        merged_sizes = sizes[plan.targets] + _summed(sizes[:, None], plan)[:, 0]
        return replace(
            frame,
            tokens=torch.cat([tokens[plan.dominant], contextual]).to(frame.tokens.dtype),
            positions=frame.positions[kept],
            sizes=torch.cat([sizes[plan.dominant], merged_sizes]),
        )


def _summed(values: Tensor, plan: Zip) -> Tensor:
    """Sum [targets, D] of ``values`` [T, D] over the others that join each target."""
    numbers = torch.arange(len(plan.targets), device=values.device)
    joins = (plan.assignment == numbers[:, None]).to(values)  # a product, since a GPU adds by index in any order
    return joins @ values[plan.others]

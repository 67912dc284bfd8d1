"""DART: a few pivots, and the tokens that duplicate them least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stc_lab.pruners.base import FrameContext, FramePruner
from stc_lab.types import precise

PIVOTS = ("keys", "tokens")


@dataclass(frozen=True, kw_only=True)
class DARTPruner(FramePruner):
    """Duplication-aware reduction (arXiv 2502.11494, section 3; github ZichenWen1/DART).

    The ``num_pivots`` tokens with the largest L1 norm of their keys are pivots. Each pivot in turn adds those of the
    tokens still free that are least similar to it by cosine, the same number for every pivot.

    Upstream does this in the second layer of the language model, with pivots of the text as well, and rounds the
    number per pivot down. Here it is done before the language model reads the frame, since every token of a stream is
    remembered before a question is known: there are no text pivots, tokens are the projector's output, and
    ``pivots="keys"`` takes the keys of the vision tower's last layer (``"tokens"``: the norm of the tokens
    themselves, which costs nothing). The first pivots add one token more where the budget does not divide evenly; a
    budget below ``num_pivots`` keeps the leading pivots alone.
    """

    num_pivots: int = 4
    pivots: Literal["keys", "tokens"] = "keys"
    name: str = "dart"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_pivots < 1:
            raise ValueError(f"pruner.num_pivots={self.num_pivots}: must be at least 1")
        if self.pivots not in PIVOTS:
            raise ValueError(f"pruner.pivots={self.pivots}: must be one of {', '.join(PIVOTS)}")

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """The keys, unless the tokens themselves choose the pivots."""
        return frozenset({"keys"} if self.pivots == "keys" else ())

    def select(self, tokens: Tensor, state: Any, context: FrameContext) -> Tensor:
        budget, tokens = self.num_kept(len(tokens)), precise(tokens)
        # Pivots: the largest L1 norms of the keys.
        source = tokens if self.pivots == "tokens" else precise(context.keys).flatten(1)
        norms = torch.linalg.vector_norm(source, ord=1, dim=-1)
        chosen = norms.argsort(descending=True, stable=True)[: min(self.num_pivots, budget)]
        return _least_duplicated(tokens, chosen, budget).sort().values

    def flops(self, num_tokens: int, dim: int) -> int:
        """Length of each token and its product with each pivot."""
        return 2 * (1 + self.num_pivots) * num_tokens * dim


def _least_duplicated(tokens: Tensor, pivots: Tensor, num_kept: int) -> Tensor:
    """``pivots`` [P] and the tokens that they choose in turn, ``num_kept`` in all."""
    unit = normalize(tokens, dim=-1)
    similarity = unit[pivots] @ unit.T
    similarity[:, pivots] = torch.inf
    # Each pivot in turn adds an equal part of what is left, of the tokens still free those least like it.
    kept, left = [pivots], num_kept - len(pivots)
    for row, pivot_similarity in enumerate(similarity):
        quota = -(-left // (len(pivots) - row))
        left -= quota
        added = pivot_similarity.argsort(stable=True)[:quota]
        similarity[:, added] = torch.inf
        kept.append(added)
    return torch.cat(kept)

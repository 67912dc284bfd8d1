"""Which tokens of a frame are recomputed, from their similarity to the reference."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

import torch
from torch import Tensor


@dataclass(frozen=True)
class Selection:
    """Tokens chosen in each frame of a batch.

    ``rows`` [S]: ascending indices into the F * T tokens of all frames laid end to end; ``counts`` [F].
    """

    rows: Tensor
    counts: list[int]
    num_tokens: int

    @property
    def is_empty(self) -> bool:
        """Whether no token of any frame was chosen."""
        return not any(self.counts)

    def per_frame(self) -> list[Tensor]:
        """Ascending token indices inside each frame."""
        return [rows - f * self.num_tokens for f, rows in enumerate(self.rows.split(self.counts))]


def least_similar(similarity: Tensor, ratio: float, num_protected: int) -> Selection:
    """The share ``ratio`` of each frame's tokens with the lowest ``similarity`` [F, T]; equal values: lower index.

    At least one token, ``max(1, floor(ratio * T))``. The first ``num_protected`` tokens are chosen besides, and
    the share is of the others.
    """
    num_frames, num_tokens = similarity.shape
    count = num_protected + max(1, share(num_tokens - num_protected, ratio))
    order = _protect(similarity, num_protected).argsort(dim=1, stable=True)
    chosen = order[:, :count].sort(dim=1).values
    starts = torch.arange(num_frames, device=similarity.device).unsqueeze(1) * num_tokens
    return Selection((chosen + starts).flatten(), [count] * num_frames, num_tokens)


def below_threshold(similarity: Tensor, threshold: float, max_ratio: float, num_protected: int) -> Selection:
    """Every token with ``similarity`` [F, T] below ``threshold``, the least similar first where the cap binds.

    The cap is ``floor(max_ratio * T)`` per frame; a frame like its reference may choose none. The first
    ``num_protected`` tokens are chosen besides, and the cap is on the others.
    """
    num_tokens = similarity.shape[1]
    cap = num_protected + share(num_tokens - num_protected, max_ratio)
    similarity = _protect(similarity, num_protected)
    chosen = similarity < threshold
    if cap < num_tokens:
        within_cap = torch.zeros_like(chosen)
        within_cap.scatter_(1, similarity.argsort(dim=1, stable=True)[:, :cap], True)
        chosen = chosen & within_cap
    return Selection(chosen.flatten().nonzero().squeeze(1), chosen.sum(1).tolist(), num_tokens)


def share(num_tokens: int, ratio: float) -> int:
    """``floor(ratio * num_tokens)``, undisturbed by binary fractions (0.29 of 100 is 29)."""
    return floor(num_tokens * ratio + 1e-9)


def _protect(similarity: Tensor, num_protected: int) -> Tensor:
    if num_protected == 0:
        return similarity
    similarity = similarity.clone()
    similarity[:, :num_protected] = -torch.inf
    return similarity

"""Additive attention masks for tokens at the end of a sequence with a sliding window."""

from __future__ import annotations

import torch
from torch import Tensor


def hidden(dtype: torch.dtype) -> float:
    """What is added to a score that must not count; finite, so that a fully hidden tile gives no NaN."""
    return torch.finfo(dtype).min


class BandMask:
    """Shows a query the keys at distance ``0 <= distance < window`` behind it.

    The last query stands on the last key, so every mask is the lower right corner of a larger one: one buffer
    serves all block sizes and all lengths, and a mask is a view.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._mask: Tensor | None = None

    def corner(self, num_queries: int, num_keys: int, like: Tensor) -> Tensor | None:
        """Mask [num_queries, num_keys] in the dtype and on the device of ``like``; ``None`` where all is visible."""
        if num_queries == 1 and num_keys <= self._window:
            return None
        mask = self._mask
        if mask is None or mask.dtype != like.dtype or mask.shape[0] < num_queries or mask.shape[1] < num_keys:
            mask = self._mask = self._build(num_queries, num_keys, like)
        return mask[mask.shape[0] - num_queries :, mask.shape[1] - num_keys :]

    def _build(self, num_queries: int, num_keys: int, like: Tensor) -> Tensor:
        rows = num_queries if self._mask is None else max(num_queries, self._mask.shape[0])
        columns = min(2 * num_keys, self._window + rows)
        columns = max(columns, num_keys, 0 if self._mask is None else self._mask.shape[1])
        row = torch.arange(columns - rows, columns, device=like.device)[:, None]
        distance = row - torch.arange(columns, device=like.device)
        outside = (distance < 0) | (distance >= self._window)
        mask = torch.zeros(rows, columns, dtype=like.dtype, device=like.device)
        return mask.masked_fill_(outside, hidden(like.dtype))


class FadingMask:
    """For the oldest keys of a window, which leave it one by one while a piece of T tokens is read.

    The last query no longer sees any of the n fading keys, the one before it sees the newest of them, and so on.
    """

    def __init__(self) -> None:
        self._mask: Tensor | None = None

    def corner(self, num_queries: int, num_fading: int, like: Tensor) -> Tensor:
        """Mask [num_queries, num_fading], with ``num_fading < num_queries``, in dtype and on device of ``like``."""
        mask = self._mask
        if mask is None or mask.dtype != like.dtype or mask.shape[1] < num_queries:
            # Below num_queries rows that hide nothing, row i hides the first i keys.
            shape = (2 * num_queries, num_queries)
            mask = torch.full(shape, hidden(like.dtype), dtype=like.dtype, device=like.device)
            mask = self._mask = mask.tril_(-1 - num_queries)
        first = mask.shape[1] - (num_queries - 1 - num_fading)
        return mask[first : first + num_queries, :num_fading]


def far_mask(first: int, num_queries: int, num_far: int, window: int, like: Tensor) -> Tensor | None:
    """Shows the queries at positions ``first ...`` those of the keys ``0 .. num_far - 1`` outside their window.

    ``None`` where all of them are outside; [num_queries, num_far] otherwise.
    """
    if first - (num_far - 1) >= window:
        return None
    positions = torch.arange(first, first + num_queries, device=like.device)[:, None]
    inside = positions - torch.arange(num_far, device=like.device) < window
    return torch.zeros(inside.shape, dtype=like.dtype, device=like.device).masked_fill_(inside, hidden(like.dtype))

"""Running means over the past of a stream."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor


class MeanHistory:
    """Mean of the last ``window`` vectors added, or of all of them (``None``), in memory that does not grow."""

    def __init__(self, window: int | None) -> None:
        self._recent: deque[Tensor] | None = None if window is None else deque(maxlen=window)
        self._mean: Tensor | None = None
        self._count = 0

    def add(self, vector: Tensor) -> None:
        """Add ``vector`` [D]; beyond the window the oldest one goes."""
        if self._recent is not None:
            self._recent.append(vector)
            self._mean = torch.stack(tuple(self._recent)).mean(0)
        else:
            self._mean = self.mean_with(vector)
            self._count += 1

    def mean(self) -> Tensor | None:
        """Mean [D] of what is remembered; ``None`` while that is nothing."""
        return self._mean

    def mean_with(self, vector: Tensor) -> Tensor:
        """Mean [D] as it would be if ``vector`` were added to an unlimited history."""
        assert self._recent is None, "a window would have to drop its oldest vector"
        return vector if self._mean is None else self._mean + (vector - self._mean) / (self._count + 1)

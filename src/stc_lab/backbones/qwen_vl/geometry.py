"""The size at which a frame is shown to a Qwen-VL model."""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_ASPECT = 200


@dataclass(frozen=True)
class FrameBudget:
    """Pixels of a frame: at least ``min_pixels``, at most ``max_pixels``; sides are multiples of ``factor``.

    ``factor`` pixels are one token of the language model: patch size times the 2 that are merged.
    """

    factor: int
    min_pixels: int
    max_pixels: int

    @classmethod
    def of_tokens(cls, factor: int, min_tokens: int, max_tokens: int) -> FrameBudget:
        """From visual tokens of a frame."""
        return cls(factor, min_tokens * factor**2, max_tokens * factor**2)

    @property
    def max_tokens(self) -> int:
        """Most visual tokens of a frame."""
        return self.max_pixels // self.factor**2

    def fit(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) near the given ones, with about the same aspect ratio (qwen-vl-utils' ``smart_resize``).

        Raises ``ValueError`` for frames that are longer than 200 times their width.
        """
        if max(height, width) > MAX_ASPECT * min(height, width):
            raise ValueError(f"a frame of {height} x {width} pixels: aspect ratios above {MAX_ASPECT} cannot be shown")
        factor = self.factor
        fitted = tuple(max(factor, round(side / factor) * factor) for side in (height, width))
        if fitted[0] * fitted[1] > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            fitted = tuple(max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width))
        elif fitted[0] * fitted[1] < self.min_pixels:
            stretch = math.sqrt(self.min_pixels / (height * width))
            fitted = tuple(math.ceil(side * stretch / factor) * factor for side in (height, width))
        return fitted

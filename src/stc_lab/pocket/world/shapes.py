"""Anti-aliased masks of the shapes, drawn at three times their size and averaged down."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from stc_lab.pocket.world.vocabulary import SHAPES

OVERSAMPLING = 3


@lru_cache(maxsize=256)
def shape_mask(shape: str, size: int) -> np.ndarray:
    """Opacity of ``shape`` in a box of ``size`` pixels: float32 [size, size] in [0, 1].

    Raises:
        ValueError: unknown shape.
    """
    if shape not in SHAPES:
        raise ValueError(f"shape={shape!r} is unknown; choose from {', '.join(SHAPES)}")
    fine = size * OVERSAMPLING
    axis = (np.arange(fine) + 0.5) / fine * 2 - 1
    x, y = np.meshgrid(axis, axis)
    inside = _inside(shape, x, y).astype(np.float32)
    return inside.reshape(size, OVERSAMPLING, size, OVERSAMPLING).mean(axis=(1, 3))


def _inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Membership of points with coordinates in [-1, 1]."""
    radius = np.hypot(x, y)
    match shape:
        case "square":
            return np.maximum(abs(x), abs(y)) < 0.9
        case "ring":
            return (radius < 1.0) & (radius > 0.52)
        case "plus":
            return np.minimum(abs(x), abs(y)) < 0.3
        case "bars":
            return (abs(y) > 0.28) & (abs(y) < 0.95)
        case "cross":
            return np.minimum(abs(x + y), abs(x - y)) < 0.42
        case _:
            return (y < 0.92) & (y > 2.0 * abs(x) - 1.0)

"""Names and numbers of the pocket world: everything that can be seen or said."""

from __future__ import annotations

IMAGE_SIZE = 108
GRID = (14, 14)
NATIVE_FPS = 4

SHAPES = ("square", "ring", "plus", "bars", "cross", "triangle")
COLORS = {
    "red": (222, 42, 40),
    "green": (44, 172, 60),
    "blue": (48, 76, 232),
    "yellow": (236, 214, 48),
    "magenta": (214, 58, 204),
    "cyan": (56, 206, 216),
}
COLOR_NAMES = tuple(COLORS)
CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")
NUMBERS = ("1", "2", "3", "4", "5", "6", "7")


def corner(x: float, y: float, margin: float = 0.0) -> str | None:
    """Corner of the image in which the point lies, ``None`` within ``margin`` pixels of a midline."""
    middle = IMAGE_SIZE / 2
    if min(abs(x - middle), abs(y - middle)) < margin:
        return None
    return CORNERS[2 * (y > middle) + (x > middle)]

"""One frame with what became of it laid over: what was paid for shows the picture, the rest is veiled."""

from __future__ import annotations

import numpy as np
from PIL import Image

from stc_lab.token_maps.cells import Fate, TokenCells, TowerCells

REUSED = ((38, 84, 176), 0.8)
VEILS = {Fate.KEPT: ((0, 0, 0), 0.0), Fate.DROPPED: ((150, 152, 158), 0.85), Fate.JOINED: ((0, 190, 120), 0.5),
         Fate.MERGED: ((120, 40, 140), 0.8)}  # fmt: skip
"""Colour and opacity. Dropped is grey, since black would pass for a dark picture."""
BORDER = 0.55


def tower_panel(picture: Image.Image, cells: TowerCells) -> Image.Image:
    """``picture`` veiled in blue by the share of layers that reused a patch; merged patches in one colour."""
    pixels = _pixels(picture)
    if cells.groups is not None:
        return _image(_mosaic(pixels, cells.groups))
    colour, opacity = REUSED
    return _image(_veiled(pixels, np.array(colour), opacity * (1.0 - _spread(cells.computed, pixels))))


def token_panel(picture: Image.Image, cells: TokenCells) -> Image.Image:
    """``picture`` with the veil of each token's fate."""
    pixels = _pixels(picture)
    fates = _spread(cells.fates, pixels)
    colours = np.array([VEILS[fate][0] for fate in Fate])
    opacities = np.array([VEILS[fate][1] for fate in Fate])
    return _image(_veiled(pixels, colours[fates], opacities[fates]))


def _veiled(pixels: np.ndarray, colour: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    return pixels * (1.0 - opacity[..., None]) + colour * opacity[..., None]


def _mosaic(pixels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Every group in its mean colour, with dark lines between groups."""
    _, numbers = np.unique(_spread(groups, pixels), return_inverse=True)
    numbers = numbers.reshape(pixels.shape[:2])
    sums = [np.bincount(numbers.ravel(), pixels[..., channel].ravel()) for channel in range(3)]
    means = np.stack(sums, axis=-1) / np.bincount(numbers.ravel())[:, None]
    is_border = np.zeros(numbers.shape, dtype=bool)
    is_border[1:] |= numbers[1:] != numbers[:-1]
    is_border[:, 1:] |= numbers[:, 1:] != numbers[:, :-1]
    return means[numbers] * np.where(is_border, BORDER, 1.0)[..., None]


def _spread(cells: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Values [rows, columns] of cells that divide the frame evenly -> values of its pixels [H, W]."""
    rows, columns = (np.arange(size) * count // size for size, count in zip(pixels.shape, cells.shape, strict=False))
    return cells[rows[:, None], columns]


def _pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=np.float64)


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))

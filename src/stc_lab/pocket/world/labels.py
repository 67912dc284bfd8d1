"""What each of the 14 x 14 cells of a picture shows, from the script alone (supervision for the vision stage)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stc_lab.pocket.world.render import TOP, Renderer
from stc_lab.pocket.world.vocabulary import COLOR_NAMES, IMAGE_SIZE, SHAPES

BACKGROUND, CLUTTER = len(SHAPES), len(SHAPES) + 1
NO_COLOR = len(COLOR_NAMES)
NUM_KINDS, NUM_COLORS = len(SHAPES) + 2, len(COLOR_NAMES) + 1
MIN_COVERAGE = 0.12


@dataclass(frozen=True)
class CellLabels:
    """For T pictures of n x n cells: ``kind`` and ``color`` int [T, n*n], ``coverage`` float32 [T, n*n] of what
    dominates a cell, ``is_object`` bool [T, n*n]."""

    kind: np.ndarray
    color: np.ndarray
    coverage: np.ndarray

    @property
    def is_object(self) -> np.ndarray:
        """Cells dominated by one of the shapes."""
        return self.kind < BACKGROUND


def cell_labels(renderer: Renderer, times_s: np.ndarray, cells: int = 14) -> CellLabels:
    """Labels of the pictures at ``times_s`` [T].

    An object beats clutter; a cell of which less than 12 % is covered is background.
    """
    boxes = _boxes(renderer, times_s)
    covered = _coverage(boxes, cells)
    claim = np.where(covered > MIN_COVERAGE, covered + 10.0 * (boxes[..., 3, None] < BACKGROUND), 0.0)
    winner = claim.argmax(axis=1)
    won = np.take_along_axis(claim, winner[:, None], axis=1)[:, 0] > 0
    pick = lambda values: np.take_along_axis(values, winner, axis=1)  # noqa: E731
    return CellLabels(
        kind=np.where(won, pick(boxes[..., 3]), BACKGROUND).astype(np.int64),
        color=np.where(won, pick(boxes[..., 4]), NO_COLOR).astype(np.int64),
        coverage=np.where(won, np.take_along_axis(covered, winner[:, None], axis=1)[:, 0], 0.0).astype(np.float32),
    )


def _boxes(renderer: Renderer, times_s: np.ndarray) -> np.ndarray:
    """Rows (x, y, size, kind, color) of everything in view, size 0 where invisible: float [T, N, 5]."""
    per_time = [_boxes_at(renderer, float(t)) for t in times_s]
    most = max(len(rows) for rows in per_time)
    boxes = np.zeros((len(per_time), most, 5))
    for index, rows in enumerate(per_time):
        boxes[index, : len(rows)] = rows
    return boxes


def _boxes_at(renderer: Renderer, time_s: float) -> list[tuple]:
    ground, left = renderer.ground(time_s)
    rows = [(x - left, y - TOP, size, CLUTTER, color) for x, y, size, color in ground.clutter]
    for track in renderer.script.tracks:
        if track.is_visible(time_s):
            x, y = track.position(time_s)
            rows.append((x, y, track.size, SHAPES.index(track.shape), COLOR_NAMES.index(track.color(time_s))))
    return rows


def _coverage(boxes: np.ndarray, cells: int) -> np.ndarray:
    """Share of each cell covered by each box: float [T, N, cells*cells]."""
    edges = np.arange(cells + 1) * (IMAGE_SIZE / cells)

    def along(center: np.ndarray) -> np.ndarray:
        half = boxes[..., 2, None] / 2
        start = np.maximum(edges[:-1], center[..., None] - half)
        return np.clip(np.minimum(edges[1:], center[..., None] + half) - start, 0, None)

    product = along(boxes[..., 1])[..., :, None] * along(boxes[..., 0])[..., None, :]
    return product.reshape(*boxes.shape[:2], -1) / (IMAGE_SIZE / cells) ** 2

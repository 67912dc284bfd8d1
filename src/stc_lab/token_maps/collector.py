"""Takes down what becomes of the first frames of a stream, for pictures to be made of it afterwards."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from stc_lab.cachers.base import FrameTrace
from stc_lab.token_maps.cells import TokenCells, TokenFacts, TowerCells, token_cells, tower_cells
from stc_lab.types import VisualTokens
from stc_lab.vision.base import VisionTower

MOST_FRAMES = 24
LARGEST_PIXELS = (320, 240)  # width, height


@dataclass(frozen=True)
class FrameMap:
    """One frame for drawing: ``tokens`` is ``None`` where the pruner does not work on frames."""

    picture: Image.Image
    time_s: float
    tower: TowerCells
    tokens: TokenCells | None


@dataclass(frozen=True)
class _Note:
    picture: Image.Image
    time_s: float
    trace: FrameTrace
    tower: VisionTower
    tokens: TokenFacts | None = None


class Collector:
    """The sink (``stc_lab.backbones.sink``) of one stream: its first ``most_frames`` frames in a row.

    Not some frames out of all: methods compare a frame with the one before it, so neighbours belong together. What is
    kept of a frame is a small picture and index lists; nothing is computed before :meth:`frames` is called.
    """

    def __init__(self, most_frames: int = MOST_FRAMES) -> None:
        self._most_frames = most_frames
        self._notes: list[_Note] = []

    def note(self, pixels: np.ndarray, time_s: float, trace: FrameTrace, tower: VisionTower) -> _Note | None:
        """See :class:`FrameSink`; of a pair the second frame is shown."""
        if len(self._notes) >= self._most_frames:
            return None
        groups = None if trace.groups is None else [trace.groups[-1]]
        picture = Image.fromarray(pixels if pixels.ndim == 3 else pixels[-1])
        picture.thumbnail(LARGEST_PIXELS, reducing_gap=2.0)
        return _Note(picture.copy(), time_s, replace(trace, similarity=None, groups=groups), tower)

    def add(self, note: _Note, full: VisualTokens, kept: VisualTokens | None) -> None:
        """See :class:`FrameSink`."""
        if len(self._notes) >= self._most_frames:
            return
        facts = None
        if kept is not None:
            facts = TokenFacts(full.grid, full.num_tokens, full.sizes, kept.positions, kept.sizes)
        self._notes.append(replace(note, tokens=facts))

    def frames(self) -> list[FrameMap]:
        """What was collected, in time order."""
        return [_frame_map(note) for note in self._notes]


def _frame_map(note: _Note) -> FrameMap:
    tower = tower_cells(note.trace, note.tower)
    tokens = None if note.tokens is None else token_cells(note.tokens, tower.groups)
    return FrameMap(note.picture, note.time_s, tower, tokens)

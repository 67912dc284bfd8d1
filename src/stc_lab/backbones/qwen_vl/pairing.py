"""Frames two by two: what the tower takes at once, and what the clock says about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ROUNDING_S = 1e-6
Span = tuple[float, float]
"""Stream time (start, stop) that a pair covers."""


@dataclass
class Pairing:
    """Joins frames of a stream sampled at ``fps`` to pairs; the last one may wait for its partner.

    The time of a frame is the point of the sampling grid for which it was shown, k / fps: half a second apart at 2
    frames a second, whatever their own timestamps are, and further apart only where frames were left out.
    """

    fps: float
    num_frames: int = 0
    waiting: np.ndarray | None = None
    _waiting_s: float = 0.0
    _next_s: float = 0.0

    def take(
        self, frames: Sequence[np.ndarray], times_s: Sequence[float]
    ) -> tuple[list[np.ndarray], list[float], list[Span]]:
        """Pairs [2, H, W, 3] that are complete now, the timestamps of their second frames, and the spans they cover.

        Raises ``ValueError`` for a frame that is no picture, or of another size than its partner.
        """
        pairs, stamps, spans = [], [], []
        for frame, time_s in zip(frames, times_s, strict=True):
            _check(frame)
            start_s = self._tick(time_s)
            if self.waiting is None:
                self.waiting, self._waiting_s = frame, start_s
            else:
                pairs.append(self._joined(self.waiting, frame))
                stamps.append(time_s)
                spans.append(self._span())
                self.waiting = None
        return pairs, stamps, spans

    def half(self) -> tuple[np.ndarray, Span]:
        """The waiting frame twice, as the official processors pad a clip, and the span that it covers."""
        return np.stack((self.waiting, self.waiting)), self._span()

    def commit_half(self) -> tuple[np.ndarray, Span]:
        """As :meth:`half`; the next frame begins a new pair."""
        half = self.half()
        self.waiting = None
        return half

    def _span(self) -> Span:
        return self._waiting_s, self._waiting_s + 2 / self.fps

    def _tick(self, time_s: float) -> float:
        shown_s = int(time_s * self.fps + ROUNDING_S) / self.fps
        start_s = max(self._next_s, shown_s) if self.num_frames else shown_s
        self._next_s = start_s + 1.0 / self.fps
        self.num_frames += 1
        return start_s

    def _joined(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        if first.shape != second.shape:
            raise ValueError(f"two frames of a pair have different sizes: {first.shape[:2]} and {second.shape[:2]}")
        return np.stack((first, second))


def _check(frame: np.ndarray) -> None:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise ValueError(f"a frame must be uint8 [H, W, 3], got {frame.dtype} {list(frame.shape)}")

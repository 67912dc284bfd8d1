"""Frames of a video at the points of a time grid: what is handed out, how a video fails, which frames are looked at.

Grid points lie at ``0, 1 / fps, 2 / fps, ...`` seconds after the first frame. Each one shows the last frame whose
presentation time is not later. A grid point therefore depends on nothing that comes after it: the frames before a
question are the same whether the video ends there or goes on for an hour.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

ERROR_KINDS = ("missing", "unreadable", "no_video_stream", "no_frames", "truncated", "timeout")
HALF_TICK = Fraction(1, 2)


class VideoError(RuntimeError):
    """A video cannot be read, or not to its end; the text names the file and the reason.

    ``kind`` is one of ``ERROR_KINDS``. ``truncated`` comes after every frame before the break was served;
    it also stands for damage in the middle of a file. ``timeout`` means that one read took too long.
    """

    def __init__(self, reason: str, kind: str) -> None:
        assert kind in ERROR_KINDS, kind
        super().__init__(reason)
        self.kind = kind

    @property
    def reason(self) -> str:
        """The text of the error."""
        return str(self)

    def __reduce__(self) -> tuple[type[VideoError], tuple[str, str]]:
        return VideoError, (str(self), self.kind)


@dataclass(frozen=True, eq=False)
class SampledFrame:
    """The frame that is on screen at one point of the sampling grid.

    ``index``: number of the frame in the file, in display order. ``timestamp_s``: its presentation time in
    the stream, counted from the first frame. ``grid_time_s``: the grid point it stands for; ``timestamp_s``
    is not later than that (but for half a tick of the container's clock). ``pixels``: uint8 RGB [H, W, 3].
    ``decode_ms``: time spent on decoding and colour conversion since the frame before, in the decoder.
    """

    index: int
    timestamp_s: float
    grid_time_s: float
    pixels: np.ndarray
    decode_ms: float


@dataclass(frozen=True)
class VideoInfo:
    """Facts from the header of a file; ``None`` where the container does not say.

    ``reader`` is the one that really reads the file and ``fallback`` the reason if it is not the one asked
    for. ``width`` and ``height`` are as displayed (rotation applied). ``open_ms``: time to open the file.
    """

    path: Path
    reader: str
    codec: str
    width: int
    height: int
    native_fps: float | None
    duration_s: float | None
    num_frames: int | None
    fallback: str | None = None
    open_ms: float = 0.0


@dataclass(frozen=True)
class TimedFrame:
    """A frame of a file with its place in time; ``image`` is what its reader needs to make pixels of it.

    ``index`` counts frames in display order; ``ticks`` is the presentation time since the first frame in
    units of the stream's time base.
    """

    index: int
    ticks: int
    image: Any = None


def exact_fps(fps: float) -> Fraction:
    """The rate a person means by a decimal number: 0.1 is one frame in ten seconds, exactly."""
    return Fraction(str(fps))


def sample_grid(
    frames: Iterable[TimedFrame], fps: Fraction, time_base: Fraction
) -> Iterator[tuple[int, TimedFrame]]:
    """Pairs of (grid point number, frame on screen there), for every grid point up to the last frame.

    ``frames`` come in display order and are pulled no further than the first one after the grid point that
    is given out. ``time_base`` is the length of a tick in seconds. Containers round times to whole ticks, so
    a frame up to half a tick after a grid point still counts as being there. A frame that goes back in time
    (a broken clock) is passed over. The grid ends with the last frame: how long that one stays on screen is
    told differently, or not at all, by different containers.
    """
    ticks_per_point = 1 / (fps * time_base)
    shown: TimedFrame | None = None
    point = 0
    for frame in frames:
        # A clock that goes back.
        if shown is not None and frame.ticks < shown.ticks:
            continue
        # Every grid point in front of this frame shows the one before it.
        while shown is not None and math.floor(point * ticks_per_point + HALF_TICK) < frame.ticks:
            yield point, shown
            point += 1
        shown = frame
    # The last frame stands for the grid point at its own time, and for none after it.
    while shown is not None and math.ceil(point * ticks_per_point - HALF_TICK) <= shown.ticks:
        yield point, shown
        point += 1

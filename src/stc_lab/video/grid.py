"""The sampling grid: which frames of a stream are looked at.

Grid points lie at ``0, 1 / fps, 2 / fps, ...`` seconds after the first frame. Each one shows the last frame
whose presentation time is not later. A grid point therefore depends on nothing that comes after it: the
frames before a question are the same whether the video ends there or goes on for an hour.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

HALF_TICK = Fraction(1, 2)


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
        if shown is not None and frame.ticks < shown.ticks:
            continue
        while shown is not None and math.floor(point * ticks_per_point + HALF_TICK) < frame.ticks:
            yield point, shown
            point += 1
        shown = frame
    while shown is not None and math.ceil(point * ticks_per_point - HALF_TICK) <= shown.ticks:
        yield point, shown
        point += 1

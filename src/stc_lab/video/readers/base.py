"""What a reader of video files has to offer."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Protocol

import numpy as np

from stc_lab.video.frames import VideoError, VideoInfo
from stc_lab.video.grid import TimedFrame


class Reader(Protocol):
    """One open file, read once from front to back.

    ``frames`` gives every frame in display order, cheaply: pixels are made only of those asked for, while
    they are the last or last but one given. ``failure`` is set once ``frames`` has stopped early.
    """

    info: VideoInfo
    time_base: Fraction
    failure: VideoError | None

    def frames(self) -> Iterator[TimedFrame]:
        """All frames in display order."""
        ...

    def pixels(self, frame: TimedFrame) -> np.ndarray:
        """RGB pixels, uint8 [H, W, 3]; frames must be asked for in ascending order. Raises ``VideoError``."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...

"""What a video hands out (sampled frames, facts about the file) and how it fails."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

ERROR_KINDS = ("missing", "unreadable", "no_video_stream", "no_frames", "truncated", "timeout")


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

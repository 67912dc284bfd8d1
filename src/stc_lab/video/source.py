"""``open_video``: frames of a video as a stream that is read up to a given time."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from numbers import Real
from pathlib import Path
from typing import Protocol

from stc_lab.video.decoder import Decoder
from stc_lab.video.process import DecoderProcess
from stc_lab.video.sampling import SampledFrame, VideoError, VideoInfo

READERS = ("decord", "pyav")
ROUNDING_S = 1e-6  # grid times and question times are both rounded decimals

log = logging.getLogger(__name__)


class OpenFile(Protocol):
    """A file being decoded, here or in another process."""

    info: VideoInfo

    def next_sample(self) -> SampledFrame | None:
        """The frame at the next grid point, ``None`` after the last one. Raises ``VideoError``."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


class FrameSource:
    """A video as a stream: hands out its frames on a time grid, in order, never later than asked for.

    A context manager. ``info`` has the facts of the file, ``fps`` the sampling rate, ``num_read`` the number of
    frames handed out so far; ``ended`` is true once the last one was.
    """

    def __init__(self, file: OpenFile, fps: float, process: DecoderProcess | None = None) -> None:
        self.info = file.info
        self.fps = float(fps)
        self.num_read = 0
        self.ended = False
        self._file = file
        self._own_process = process
        self._failure: VideoError | None = None

    @property
    def next_time_s(self) -> float:
        """Grid time of the frame that comes next."""
        return self.num_read / self.fps

    def frames(self, until_s: float | None = None) -> Iterator[SampledFrame]:
        """All further frames with a grid time up to and including ``until_s`` (``None``: up to the end).

        Call it again with a later time to go on from there. A loop left early loses nothing. Raises
        ``VideoError`` when the file breaks, and again on every later call.
        """
        while not self.ended and (until_s is None or self.next_time_s <= until_s + ROUNDING_S):
            frame = self._next()
            if frame is None:
                return
            self.num_read += 1
            yield frame

    def close(self) -> None:
        """Let go of the file, and of the decoder process if it was made for this source alone."""
        self._file.close()
        if self._own_process is not None:
            self._own_process.close()

    def __iter__(self) -> Iterator[SampledFrame]:
        return self.frames()

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next(self) -> SampledFrame | None:
        # A file that broke once stays broken: the reason is told again.
        if self._failure is not None:
            raise self._failure
        try:
            frame = self._file.next_sample()
        except VideoError as error:
            self._failure = error
            raise
        self.ended = frame is None
        return frame


def check_video_settings(reader: str, fps: float, timeout_s: float) -> None:
    """Raise ``ValueError`` for a setting that cannot work, naming it, its value and the choices."""
    if reader not in READERS:
        raise ValueError(f"reader={reader!r}: choose one of {', '.join(READERS)}")
    _check_positive("fps", fps, "frames per second")
    _check_positive("timeout_s", timeout_s, "seconds per read")


def open_video(
    path: str | Path,
    reader: str = "decord",
    fps: float = 1.0,
    timeout_s: float = 60.0,
    *,
    process: DecoderProcess | None = None,
    in_process: bool = False,
) -> FrameSource:
    """Open a video file for reading as a stream of frames, ``fps`` grid points a second from t=0.

    ``reader``: ``decord``, which hands over to ``pyav`` where it is not installed or would misread the file
    (``info.fallback`` says why; each reason is logged as a warning once per ``process``), or ``pyav``.
    Decoding runs in ``process``, which is worth sharing between files read one after the other, or else in a
    process made for this file; ``timeout_s`` limits each read there, opening included. ``in_process=True``
    decodes in the calling process: no read-ahead and no time limit.

    Raises ``ValueError`` for a wrong setting and ``VideoError`` for a file that cannot be read; a file that
    breaks later, or has no frames, raises ``VideoError`` from the reading.
    """
    check_video_settings(reader, fps, timeout_s)
    if in_process and process is not None:
        raise ValueError("in_process=True with process=...: give one of the two")
    path = Path(path).absolute()  # the decoder process stays in the folder in which it was started
    if in_process:
        file, own_process = Decoder(path, reader, fps), None
    else:
        # A decoder that hangs or dies takes its own process with it, not this one.
        own_process = DecoderProcess() if process is None else None
        file = _open_remote(process or own_process, path, reader, fps, timeout_s, close_on_error=process is None)
    fallback = file.info.fallback
    if fallback is not None:
        # Each reason is a warning once, then a note.
        is_news = process is None or process.is_news(fallback)
        log.log(logging.WARNING if is_news else logging.INFO, "%s: read with PyAV, not decord: %s", path, fallback)
    return FrameSource(file, fps, own_process)


def _open_remote(
    process: DecoderProcess, path: Path, reader: str, fps: float, timeout_s: float, close_on_error: bool
) -> OpenFile:
    try:
        return process.open(path, reader, fps, timeout_s)
    except BaseException:
        if close_on_error:
            process.close()
        raise


def _check_positive(name: str, value: float, unit: str) -> None:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name}={value!r}: choose a finite number of {unit} above 0")

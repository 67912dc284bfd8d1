"""Reading with decord: pixels of single frames by number, time stamps from the packets of the file."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from stc_lab.video.container import OpenContainer, PacketIndex, describe, open_container, read_packet_index
from stc_lab.video.sampling import TimedFrame, VideoError, VideoInfo

# decord copies a neighbour over a frame that it cannot decode, unless fewer than this share may be copied.
NO_COPIED_FRAMES = 1e-9
FLOAT32_STEP = 2.0**-23
CLOCK_TOLERANCE_S = 1e-3


class UnfitForDecord(Exception):
    """decord cannot be used, or would give other frames than the ones asked for; the text says why."""


class DecordReader:
    """Decodes from front to back with decord, on one thread (implements ``Reader``).

    It never lets decord seek: it finds a frame by counting from the key frame that it landed on, and lands
    beside it when key frames are close together, marked wrongly, or followed by frames shown before them.
    Raises ``UnfitForDecord`` for a file that decord cannot open or would misread, ``VideoError`` for one that
    nobody can read.
    """

    failure: VideoError | None = None

    def __init__(self, path: Path) -> None:
        decord = _import_decord()
        opened = open_container(path)
        try:
            self.info: VideoInfo = describe(opened, reader="decord")
            self._index = _trusted_index(opened)
        finally:
            opened.container.close()
        self.time_base: Fraction = self._index.time_base
        self._errors = (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError, StopIteration)
        self._position = 0
        self._last_index, self._last_pixels = -1, np.empty(0, np.uint8)
        try:
            self._video = decord.VideoReader(str(path), num_threads=1, fault_tol=NO_COPIED_FRAMES)
            self._keys: list[int] = self._video.get_key_indices()
            self._check_clock()
            shape = self._read(0).shape
        except self._errors as error:
            raise UnfitForDecord(f"decord cannot open it (codec {self.info.codec})") from error
        if shape != (self.info.height, self.info.width, 3):
            raise UnfitForDecord("decord gives pictures of another size")
        self.info = replace(self.info, num_frames=len(self._index.ticks))

    def frames(self) -> Iterator[TimedFrame]:
        """Every frame with its time since the first one (nothing is decoded for that)."""
        for index, ticks in enumerate(self._index.ticks.tolist()):
            yield TimedFrame(index, ticks)

    def pixels(self, frame: TimedFrame) -> np.ndarray:
        """Decode ``frame``. Raises ``UnfitForDecord`` where the file is damaged."""
        try:
            return self._read(frame.index)
        except self._errors as error:
            raise UnfitForDecord(f"decord breaks at frame {frame.index} ({_first_line(error)})") from error

    def close(self) -> None:
        """Let go of decord's reader, and with it of its buffers."""
        self._video = None

    def _read(self, index: int) -> np.ndarray:
        if index == self._last_index:
            return self._last_pixels.copy()
        self._go_to(index)
        self._last_pixels, self._last_index = _as_numpy(self._next()), index
        return self._last_pixels

    def _go_to(self, index: int) -> None:
        """Pass over the frames before ``index``. Skipping past a key frame would make decord seek to it."""
        while self._position < index:
            next_key = self._keys[bisect_right(self._keys, self._position) :][:1] or [index + 1]
            num_skipped = min(index, next_key[0] - 1) - self._position
            # As many as are left in front of the next key frame; over that one frame by frame.
            if num_skipped > 0:
                self._video.skip_frames(num_skipped)
                self._position += num_skipped
            if self._position < index:
                self._next()

    def _next(self) -> object:
        self._position += 1
        return self._video.next()

    def _check_clock(self) -> None:
        """decord and the packet index must speak of the same frames (decord counts time in float32)."""
        # The same number of frames, at the same times but for what float32 cannot tell.
        times_s = self._index.times_s
        if len(self._video) != len(times_s):
            raise UnfitForDecord(f"decord sees {len(self._video)} frames in it instead of {len(times_s)}")
        seen_s = self._video.get_frame_timestamp(range(len(times_s)))[:, 0].astype(np.float64)
        end_s = abs(self._index.start * float(self.time_base)) + times_s[-1]
        if np.abs(seen_s - seen_s[0] - times_s).max() > CLOCK_TOLERANCE_S + FLOAT32_STEP * end_s:
            raise UnfitForDecord("decord gives other time stamps than the file")


def _import_decord():
    """The module, told to keep its log to itself."""
    try:
        import decord
    except (ImportError, OSError) as error:  # OSError: the shared library does not load
        raise UnfitForDecord(f"decord cannot be imported: {error}") from error
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _trusted_index(opened: OpenContainer) -> PacketIndex:
    index = read_packet_index(opened)
    if index.problem:
        raise UnfitForDecord(index.problem)
    return index


def _as_numpy(pixels: object) -> np.ndarray:
    """decord's own array, or what its bridge to another library (a setting of the process) makes of it."""
    return pixels.asnumpy() if hasattr(pixels, "asnumpy") else np.asarray(pixels)


def _first_line(error: BaseException) -> str:
    """The message without the place in decord's source that it starts with."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^\[[\d:]+\] \S+:\d+: ", "", lines[0])

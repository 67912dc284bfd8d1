"""From a file to sampled frames, in the process that calls, and a few of them ahead of the one who asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

from stc_lab.video.container import Reader
from stc_lab.video.decord_reader import DecordReader, UnfitForDecord
from stc_lab.video.pyav_reader import PyAVReader
from stc_lab.video.sampling import SampledFrame, VideoError, VideoInfo, exact_fps, sample_grid


class Decoder:
    """Frames of one file on the grid of ``fps``, one at a time, in time order.

    ``reader="decord"`` turns to PyAV where decord is not installed or would misread the file
    (``info.fallback`` then says why). Raises ``VideoError`` when the file cannot be opened.
    """

    def __init__(self, path: Path, reader: str, fps: float) -> None:
        start_s = time.perf_counter()
        self._fps = exact_fps(fps)
        self._reader, fallback = _open_reader(path, reader)
        open_ms = (time.perf_counter() - start_s) * 1e3
        self.info: VideoInfo = replace(self._reader.info, fallback=fallback, open_ms=open_ms)
        self._num_points = 0
        self._samples = self._sample()

    def next_sample(self) -> SampledFrame | None:
        """The frame at the next grid point, ``None`` after the last one.

        Raises ``VideoError``: ``no_frames`` if there is none at all, ``truncated`` after the last good one.
        """
        return next(self._samples, None)

    def close(self) -> None:
        """Let go of the file."""
        self._samples.close()
        self._reader.close()

    def _sample(self) -> Iterator[SampledFrame]:
        try:
            yield from self._sample_from(0)
        except UnfitForDecord:  # damaged: decord fails now here and now there, PyAV at the damage
            self._reader.close()
            self._reader = PyAVReader(self.info.path)
            yield from self._sample_from(self._num_points)
        if self._reader.failure is not None:
            raise self._reader.failure
        if self._num_points == 0:
            raise VideoError(f"{self.info.path}: no frame in its video stream can be decoded", "no_frames")

    def _sample_from(self, first_point: int) -> Iterator[SampledFrame]:
        start_s = time.perf_counter()
        for point, frame in sample_grid(self._reader.frames(), self._fps, self._reader.time_base):
            # Given out before another reader took over.
            if point < first_point:
                continue
            pixels = self._reader.pixels(frame)
            decode_ms = (time.perf_counter() - start_s) * 1e3
            timestamp_s = float(frame.ticks * self._reader.time_base)
            self._num_points += 1
            yield SampledFrame(frame.index, timestamp_s, float(point / self._fps), pixels, decode_ms)
            start_s = time.perf_counter()


def _open_reader(path: Path, reader: str) -> tuple[Reader, str | None]:
    """The reader asked for, or PyAV and the reason why."""
    if reader == "pyav":
        return PyAVReader(path), None
    try:
        return DecordReader(path), None
    except UnfitForDecord as reason:
        return PyAVReader(path), str(reason)


class ReadAhead:
    """Opens a file and keeps up to ``depth`` of its frames ready, so that decoding goes on while others compute.

    Items in order: the ``VideoInfo``, the frames, and last ``None`` or the exception that ended the reading.
    """

    def __init__(self, open_decoder: Callable[[], Decoder], depth: int) -> None:
        self._open_decoder = open_decoder
        self._items: SimpleQueue[VideoInfo | SampledFrame | Exception | None] = SimpleQueue()
        self._free = threading.Semaphore(depth - 1)  # taking the info makes one more free
        self._stop = threading.Event()
        threading.Thread(target=self._run, name="decode", daemon=True).start()

    def take(self) -> VideoInfo | SampledFrame | Exception | None:
        """The next item; waits for it. Not to be called again after the last one."""
        item = self._items.get()
        self._free.release()
        return item

    def close(self) -> None:
        """Stop decoding and let go of the file, as soon as the frame at hand is done; does not wait for that."""
        self._stop.set()
        self._free.release()

    def _run(self) -> None:
        try:
            decoder = self._open_decoder()
            self._items.put(decoder.info)
            try:
                self._fill(decoder)
            finally:
                decoder.close()
        except Exception as error:
            self._items.put(error)

    def _fill(self, decoder: Decoder) -> None:
        while True:
            self._free.acquire()
            if self._stop.is_set():
                return
            sample = decoder.next_sample()
            self._items.put(sample)
            if sample is None:
                return

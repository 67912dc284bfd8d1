"""Reading with PyAV: one pass over the file, every time stamp taken from the decoded frame itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np

from stc_lab.video.container import describe, open_container, plain_text
from stc_lab.video.sampling import TimedFrame, VideoError, VideoInfo

FALLBACK_FPS = Fraction(25)


class PyAVReader:
    """Reads whatever FFmpeg reads, from front to back, on one thread (implements ``Reader``)."""

    failure: VideoError | None

    def __init__(self, path: Path) -> None:
        self._opened = open_container(path)
        stream = self._opened.stream
        # Decoding must not take cores from the model that is measured.
        stream.codec_context.thread_count = 1
        self.info: VideoInfo = describe(self._opened, reader="pyav")
        self.time_base: Fraction = stream.time_base
        self.failure = None
        self._frames = self._decode()
        self._first: av.VideoFrame | None = next(self._frames, None)
        if self._first is not None:
            self.info = self._as_displayed(self._first)

    def frames(self) -> Iterator[TimedFrame]:
        """Every frame with its time since the first one."""
        if self._first is None:
            return
        first, self._first = self._first, None
        start = self._ticks(first, 0)
        yield TimedFrame(0, 0, first)
        for index, frame in enumerate(self._frames, start=1):
            yield TimedFrame(index, self._ticks(frame, index) - start, frame)

    def pixels(self, frame: TimedFrame) -> np.ndarray:
        """Pixels at the size and rotation of the first frame, whatever the stream changes to later."""
        # Size as displayed; the picture lies as it was stored.
        quarter_turns = _quarter_turns(frame.image)
        width, height = self.info.width, self.info.height
        if quarter_turns % 2:
            width, height = height, width
        try:
            pixels = frame.image.to_ndarray(format="rgb24", width=width, height=height)
        except (av.error.FFmpegError, ValueError) as error:
            reason = f"{self.info.path}: frame {frame.index} cannot be converted ({plain_text(error)})"
            raise VideoError(reason, "unreadable") from error
        return np.ascontiguousarray(np.rot90(pixels, quarter_turns))

    def close(self) -> None:
        """Close the container."""
        self._frames.close()
        self._opened.container.close()

    def _decode(self) -> Iterator[av.VideoFrame]:
        """Frames up to the end, or up to the first damage (which is then noted in ``failure``)."""
        num_packets, num_frames = 0, 0
        packets = self._opened.container.demux(self._opened.stream)
        try:
            for packet in packets:
                frames = self._decode_packet(packet, is_start=num_frames == 0)
                num_packets += packet.size > 0
                num_frames += len(frames)
                yield from frames
        except (av.error.FFmpegError, OSError) as error:
            self._fail(num_frames, plain_text(error))
            return
        # A file without its end may decode without an error.
        if self._opened.cut_off and num_packets < (self._opened.stream.frames or math.inf):
            self._fail(num_frames, "the file is cut off")

    @staticmethod
    def _decode_packet(packet: av.Packet, is_start: bool) -> list[av.VideoFrame]:
        """Frames that come out for ``packet``; recordings of a broadcast start with some that nobody can decode."""
        try:
            return packet.decode()
        except av.error.InvalidDataError:
            if is_start:
                return []
            raise

    def _fail(self, num_frames: int, cause: str) -> None:
        self.failure = VideoError(f"{self.info.path}: broken after {num_frames} frames ({cause})", "truncated")

    def _ticks(self, frame: av.VideoFrame, index: int) -> int:
        """The frame's own time stamp; a steady rate where the format has none (raw H.264)."""
        if frame.pts is not None:
            return frame.pts
        rate = self._opened.stream.average_rate or FALLBACK_FPS
        return round(index / (rate * self.time_base))

    def _as_displayed(self, frame: av.VideoFrame) -> VideoInfo:
        size = (frame.height, frame.width) if _quarter_turns(frame) % 2 else (frame.width, frame.height)
        return replace(self.info, width=size[0], height=size[1])


def _quarter_turns(frame: av.VideoFrame) -> int:
    """Counter-clockwise quarter turns that bring a frame upright."""
    return round(frame.rotation / 90) % 4

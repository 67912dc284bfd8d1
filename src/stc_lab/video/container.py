"""A video file without its pixels: what is in it or why it cannot be read, whether it is cut off, and its packets.

Cut off: decoders report that in many ways, or not at all; the sizes that MP4 and Matroska files state themselves are
exact and cheap to read. Packets: is decord's frame index right for this file? decord numbers frames by sorting the time
stamps of the packets, and counts what comes out of the decoder. The two do not belong together, and nothing tells,
where packets come without time stamps or where the first ones cannot be shown (clips cut without re-encoding); in some
containers it does not even start at the first frame. Pictures that are shown rotated come out of it garbled at some
sizes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Protocol

import av
import av.container
import av.error
import av.video.stream
import numpy as np

from stc_lab.video.sampling import TimedFrame, VideoError, VideoInfo

ANY_METADATA = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
"""Titles in no known encoding are no reason to refuse a video, which PyAV 19 knows by itself."""
EBML_MAGIC = b"\x1a\x45\xdf\xa3"
SEGMENT_ID = b"\x18\x53\x80\x67"
MP4_TOP_BOXES = (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide")
STARTABLE_FORMATS = ("mov", "matroska", "avi", "flv")


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


@dataclass(frozen=True)
class OpenContainer:
    """A container with its video stream; ``cut_off``: the file is shorter than its own structure says."""

    path: Path
    container: av.container.InputContainer
    stream: av.video.stream.VideoStream
    cut_off: bool


def open_container(path: Path) -> OpenContainer:
    """Open ``path`` and pick its main video stream.

    Raises ``VideoError`` of kind ``missing``, ``unreadable``, ``truncated``, ``no_frames`` or
    ``no_video_stream``.
    """
    cut_off = _check_file(path)
    try:
        container = av.open(str(path), **ANY_METADATA)
    except (av.error.FFmpegError, OSError) as error:
        if cut_off:
            reason = f"{path}: cut off before its index, so that nothing of it can be read"
            raise VideoError(reason, "truncated") from error
        if isinstance(error, av.error.EOFError):
            raise VideoError(f"{path}: ends before the first frame", "no_frames") from error
        raise VideoError(f"{path}: not a video that FFmpeg can read ({plain_text(error)})", "unreadable") from error
    try:
        stream = _main_stream(path, container)
    except VideoError:
        container.close()
        raise
    return OpenContainer(path, container, stream, cut_off)


def describe(opened: OpenContainer, reader: str) -> VideoInfo:
    """The facts in the header, with the size as coded (a reader that rotates changes it)."""
    stream = opened.stream
    rate = stream.average_rate or stream.guessed_rate
    duration_s = None
    if stream.duration is not None and stream.time_base is not None:
        duration_s = float(stream.duration * stream.time_base)
    elif opened.container.duration is not None:
        duration_s = opened.container.duration / av.time_base
    return VideoInfo(
        path=opened.path,
        reader=reader,
        codec=stream.codec_context.codec.canonical_name,
        width=stream.codec_context.width,
        height=stream.codec_context.height,
        native_fps=float(rate) if rate else None,
        duration_s=duration_s,
        num_frames=stream.frames or None,
    )


def plain_text(error: Exception) -> str:
    """What FFmpeg says about an error, without numbers and file names."""
    return getattr(error, "strerror", None) or str(error)


def _check_file(path: Path) -> bool:
    """Whether a file that is there and can be opened is cut off; raises ``VideoError`` if it cannot."""
    if not path.exists():
        raise VideoError(f"{path}: no such file", "missing")
    if not path.is_file():
        raise VideoError(f"{path}: not a file", "unreadable")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes)", "unreadable")
    if not os.access(path, os.R_OK):
        raise VideoError(f"{path}: no permission to read it", "unreadable")
    return is_cut_off(path)


def _main_stream(path: Path, container: av.container.InputContainer) -> av.video.stream.VideoStream:
    stream = container.streams.best("video")
    if stream is None or _is_cover_picture(stream):
        kinds = ", ".join(sorted({other.type for other in container.streams})) or "nothing"
        raise VideoError(f"{path}: no video stream (it holds: {kinds})", "no_video_stream")
    if stream.codec_context is None:
        raise VideoError(f"{path}: no decoder for its video codec", "unreadable")
    return stream


def _is_cover_picture(stream: av.video.stream.VideoStream) -> bool:
    """Cover art of music files is stored as a video stream of one picture."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


# Cut off or not


def is_cut_off(path: Path) -> bool:
    """Whether an MP4/MOV or Matroska/WebM file ends too early. ``False`` for every other format."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(8)
        file.seek(0)
        if head[:4] == EBML_MAGIC:
            return _matroska_is_cut(file, size)
        if head[4:8] in MP4_TOP_BOXES:
            return _mp4_is_cut(file, size)
    return False


def _mp4_is_cut(file: BinaryIO, size: int) -> bool:
    """Walk the top boxes: one reaches past the end, or the index (``moov``) never comes."""
    # A box: its length, its name, its content.
    offset, has_index = 0, False
    while offset + 8 <= size:
        file.seek(offset)
        length, name = struct.unpack(">I4s", file.read(8))
        if length == 1:
            length = int.from_bytes(file.read(8), "big")
        elif length == 0:  # "to the end of the file"
            length = size - offset
        if offset + length > size:
            return name in MP4_TOP_BOXES  # anything else is padding or rubbish after the last box
        if length < 8:
            return False
        has_index = has_index or name == b"moov"
        offset += length
    return not has_index


def _matroska_is_cut(file: BinaryIO, size: int) -> bool:
    """The ``Segment`` element, which holds all the rest, states a size that reaches past the end."""
    file.seek(len(EBML_MAGIC))
    header_length = _ebml_size(file)
    if header_length is None:
        return False
    file.seek(header_length, os.SEEK_CUR)
    if file.read(len(SEGMENT_ID)) != SEGMENT_ID:
        return False
    length = _ebml_size(file)
    return length is not None and file.tell() + length > size


def _ebml_size(file: BinaryIO) -> int | None:
    """A variable-length size; ``None`` for "unknown" (a live recording) and at the end of the file."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    num_more = 8 - first[0].bit_length()
    mask = (1 << (7 - num_more)) - 1
    value = int.from_bytes(bytes([first[0] & mask]) + file.read(num_more), "big")
    return None if value == (1 << (7 * (num_more + 1))) - 1 else value


# Packets


@dataclass(frozen=True)
class PacketIndex:
    """Presentation times of all frames, ascending, in ticks of ``time_base`` since the first one.

    ``start`` is the time stamp of the first frame. ``problem`` says why the times and decord's frame numbers
    would not belong together (``None``: they do).
    """

    ticks: np.ndarray
    start: int
    time_base: Fraction
    problem: str | None

    @property
    def times_s(self) -> np.ndarray:
        """Seconds since the first frame, float64 [N]."""
        return self.ticks * float(self.time_base)


def read_packet_index(opened: OpenContainer) -> PacketIndex:
    """Go once over the packets of ``opened`` (reads the file, decodes one frame)."""
    stream = opened.stream
    times: list[int | None] = []
    first_frame: av.VideoFrame | None = None
    problem = _format_problem(opened)
    if problem:
        return PacketIndex(np.empty(0, np.int64), 0, stream.time_base, problem)
    try:
        for packet in opened.container.demux(stream):
            # The packet that ends a stream is empty.
            if packet.size == 0:
                continue
            times.append(packet.pts)
            if first_frame is None:
                first_frame = next(iter(packet.decode()), None)
            if packet.is_discard:
                problem = problem or "its edit list hides frames"
    except (av.error.FFmpegError, OSError) as error:
        problem = f"it is damaged ({plain_text(error)})"
    problem = problem or _order_problem(times, first_frame)
    known = np.sort(np.array([time for time in times if time is not None], dtype=np.int64))
    start = int(known[0]) if len(known) else 0
    return PacketIndex(known - start, start, stream.time_base, problem)


def _format_problem(opened: OpenContainer) -> str | None:
    if opened.cut_off:
        return "it is cut off"
    names = opened.container.format.name.split(",")
    return None if set(names) & set(STARTABLE_FORMATS) else f"decord does not start at the first frame of {names[0]}"


def _order_problem(times: list[int | None], first_frame: av.VideoFrame | None) -> str | None:
    """Why counting frames over sorted time stamps would go wrong (``None``: it would not)."""
    if not times:
        return "it holds no frames"
    if None in times:
        return "packets carry no time stamps"
    if len(set(times)) != len(times):
        return "frames share a time stamp"
    if first_frame is None or first_frame.pts != min(times):
        return "its first frames cannot be decoded"
    if first_frame.rotation:
        return "it is shown rotated"
    return None

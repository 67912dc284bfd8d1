"""Opening a container with PyAV: what is in it, or why it cannot be read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import av
import av.container
import av.error
import av.video.stream

from stc_lab.video.frames import VideoError, VideoInfo
from stc_lab.video.readers.cutoff import is_cut_off

ANY_METADATA = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
"""Titles in no known encoding are no reason to refuse a video, which PyAV 19 knows by itself."""


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

"""The packets of a video stream, listed without decoding: is decord's frame index right for this file?

decord numbers frames by sorting the time stamps of the packets, and counts what comes out of the decoder. The
two do not belong together, and nothing tells, where packets come without time stamps or where the first ones
cannot be shown (clips cut without re-encoding); in some containers it does not even start at the first frame.
Pictures that are shown rotated come out of it garbled at some sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import av
import av.error
import numpy as np

from stc_lab.video.readers.container import OpenContainer, plain_text

STARTABLE_FORMATS = ("mov", "matroska", "avi", "flv")


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

"""A source is read up to a time, then on from there; the decoder process never hands out more than asked for."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from stc_lab.video import READERS, DecoderProcess, open_video
from stc_lab.video.decoder import Decoder, ReadAhead
from stc_lab.video.process import SharedFrame


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("remote", [True, False])
def test_reading_in_steps_equals_reading_at_once(clip: Path, reader: str, remote: bool, process) -> None:
    where = {"process": process} if remote else {"in_process": True}
    with open_video(clip, reader, fps=3.0, **where) as source:
        at_once = list(source)
    with open_video(clip, reader, fps=3.0, **where) as source:
        in_steps = []
        for until_s in (0.0, 0.0, 0.2, 1.0, 1.1, 2 / 3 + 1, 3.0, 100.0):
            part = list(source.frames(until_s))
            assert all(frame.grid_time_s <= until_s + 1e-6 for frame in part)
            in_steps += part
            assert (source.num_read == len(in_steps) and source.next_time_s > until_s) or source.ended
    assert [frame.index for frame in in_steps] == [frame.index for frame in at_once]
    for frame, reference in zip(in_steps, at_once, strict=True):
        assert np.array_equal(frame.pixels, reference.pixels)
        assert frame.timestamp_s <= frame.grid_time_s + 1e-3
        assert frame.decode_ms >= 0


def test_a_question_at_a_grid_time_sees_that_frame(clip: Path) -> None:
    with open_video(clip, fps=10.0, in_process=True) as source:
        assert len(list(source.frames(until_s=0.3))) == 4
        assert source.next_time_s == pytest.approx(0.4)


def test_a_loop_left_early_loses_nothing(clip: Path, process: DecoderProcess) -> None:
    with open_video(clip, fps=5.0, process=process) as source:
        first = next(iter(source))
        rest = list(source)
    assert first.index == 0 and [frame.index for frame in rest] == list(range(5, 100, 5))


def test_prefix_of_a_video_gives_the_same_frames(videos, process: DecoderProcess) -> None:
    whole = videos.video("whole.mp4", videos.steady(100))
    part = videos.video("part.mp4", videos.steady(60))
    with open_video(whole, fps=3.0, process=process) as source:
        expected = list(source)
    with open_video(part, fps=3.0, process=process) as source:
        frames = list(source)
    assert [f.index for f in frames] == [f.index for f in expected[: len(frames)]] and len(frames) == 8


def test_end_is_known_and_stays(clip: Path, process: DecoderProcess) -> None:
    with open_video(clip, process=process) as source:
        assert not source.ended
        assert len(list(source)) == 4
        assert source.ended and list(source) == [] and list(source.frames(1e9)) == []


def test_without_decord_pyav_reads_and_says_so(clip: Path, monkeypatch, caplog) -> None:
    with open_video(clip, reader="pyav", in_process=True) as source:
        expected = [(frame.index, frame.timestamp_s) for frame in source]
    monkeypatch.setitem(sys.modules, "decord", None)
    with open_video(clip, in_process=True) as source:
        assert source.info.reader == "pyav" and "cannot be imported" in source.info.fallback
        assert [(frame.index, frame.timestamp_s) for frame in source] == expected
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "PyAV, not decord" in record.getMessage()


def test_read_ahead_is_bounded(clip: Path) -> None:
    """The decoder works ahead up to the depth, and no further until a frame is taken."""
    decoded = threading.Semaphore(0)

    class Counted(Decoder):
        def next_sample(self):
            sample = super().next_sample()
            decoded.release()
            return sample

    def decodes_just(count: int) -> bool:
        return all(decoded.acquire(timeout=20) for _ in range(count)) and not decoded.acquire(timeout=0.2)

    ahead = ReadAhead(lambda: Counted(clip, "pyav", 5.0), depth=3)
    assert ahead.take().reader == "pyav"
    assert decodes_just(3)
    assert ahead.take().index == 0 and ahead.take().index == 5
    assert decodes_just(2)
    ahead.close()


def test_shared_memory_takes_frames_of_any_size() -> None:
    ours = SharedFrame.create()
    theirs = SharedFrame(ours.descriptor)
    rng = np.random.default_rng(0)
    for shape in ((4, 6, 3), (480, 640, 3), (2, 2, 3), (1080, 1920, 3)):
        pixels = rng.integers(0, 256, size=shape, dtype=np.uint8)
        theirs.write(pixels)
        copy = ours.read(shape)
        theirs.write(np.zeros_like(pixels))
        assert np.array_equal(copy, pixels)
    ours.close()

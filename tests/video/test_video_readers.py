"""Both readers give the same frames at the same times, and decord is not trusted where it would be wrong."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from stc_lab.video import READERS, SampledFrame, VideoInfo, open_video

pytest.importorskip("decord", reason="no decord for this machine")

QUARTER_TURN = (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
HALF_TURN = (-65536, 0, 0, 0, -65536, 0, 0, 0, 1 << 30)


def read(path: Path, reader: str, fps: float = 2.0) -> tuple[VideoInfo, list[SampledFrame]]:
    with open_video(path, reader=reader, fps=fps, in_process=True) as source:
        return source.info, list(source)


def places(frames: list[SampledFrame]) -> list[tuple[int, float, float]]:
    return [(frame.index, frame.timestamp_s, frame.grid_time_s) for frame in frames]


def assert_same_frames(path: Path, fps: float = 2.0) -> tuple[VideoInfo, list[SampledFrame]]:
    """decord (if it was really used) and PyAV agree; returns what decord gave."""
    info, frames = read(path, "decord", fps)
    _, expected = read(path, "pyav", fps)
    assert places(frames) == places(expected)
    for frame, reference in zip(frames, expected, strict=True):
        assert frame.pixels.dtype == np.uint8 and frame.pixels.shape == reference.pixels.shape
        assert np.abs(frame.pixels.astype(int) - reference.pixels).mean() < 1.0
        assert frame.pixels.shape == (info.height, info.width, 3)
    return info, frames


def assert_shows(videos, frames: list[SampledFrame]) -> None:
    """The pixels are those of the frame whose number is given."""
    for frame in frames:
        assert np.abs(frame.pixels.astype(int) - videos.pixels(frame.index)).mean() < 12, frame.index


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("start_s", [0.0, 2.0, 9000.0])
def test_steady_video_from_any_start(videos, suffix: str, start_s: float) -> None:
    path = videos.video(f"steady.{suffix}", videos.steady(90, start_s))
    info, frames = assert_same_frames(path)
    assert info.reader == "decord" and info.fallback is None
    assert [frame.index for frame in frames] == [0, 12, 25, 37, 50, 62, 75, 87]
    assert [frame.timestamp_s for frame in frames] == pytest.approx([f.index / 25 for f in frames], abs=1e-3)
    assert_shows(videos, frames)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_rate(videos, suffix: str) -> None:
    rng = np.random.default_rng(1)
    times_s = (0.1 + np.cumsum(rng.uniform(0.02, 0.3, size=60))).tolist()
    info, frames = assert_same_frames(videos.video(f"variable.{suffix}", times_s))
    assert info.reader == "decord"
    assert [frame.grid_time_s for frame in frames] == [point / 2 for point in range(len(frames))]
    since_first = np.array(times_s) - times_s[0]
    expected = [np.flatnonzero(since_first <= frame.grid_time_s + 6e-4)[-1] for frame in frames]
    assert [frame.index for frame in frames] == expected
    assert_shows(videos, frames)


@pytest.mark.parametrize(
    "options",
    [
        {"g": "20"},
        {"x264-params": "open-gop=1:keyint=24:min-keyint=24:scenecut=0:bframes=3"},
        {"x264-params": "keyint=7:bframes=6:min-keyint=1:b-pyramid=strict"},
        {"g": "1"},
        {"tune": "zerolatency", "intra-refresh": "1"},
    ],
    ids=["closed", "open", "close together", "keys only", "refreshed bit by bit"],
)
def test_sparse_sampling_finds_the_frames_however_key_frames_lie(videos, options: dict) -> None:
    """Where decord seeks it finds others: see ``DecordReader``."""
    path = videos.video("long.mkv", videos.steady(300), **options)
    for fps, step in ((0.31, 80.645), (3.57, 7.003)):
        info, frames = assert_same_frames(path, fps=fps)
        assert info.reader == "decord"
        assert [frame.index for frame in frames] == [int(step * point) for point in range(len(frames))]
        assert_shows(videos, frames)


def test_more_samples_than_frames_are_copies_of_their_own(videos) -> None:
    _, frames = assert_same_frames(videos.video("slow.mp4", videos.steady(4)), fps=50.0)
    assert [frame.index for frame in frames] == [0, 0, 1, 1, 2, 2, 3]
    frames[2].pixels[:] = 0
    assert frames[3].pixels.any()


def test_real_clips(shared_dir: Path) -> None:
    for name in ("nasa.mp4", "pancake.mkv", "street_720p.mp4"):
        info, frames = assert_same_frames(shared_dir / "data" / "video" / name, fps=0.7)
        assert info.reader == "decord" and info.codec == "h264"
        assert info.native_fps == pytest.approx(30, abs=0.1)
        assert len(frames) >= 3


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("broadcast.ts", "mpegts"),
        ("unstamped.avi", "time stamps"),
    ],
)
def test_files_that_decord_would_misread_go_to_pyav(videos, name: str, reason: str) -> None:
    path = videos.video(name, videos.steady(150))
    info, frames = assert_same_frames(path, fps=3.0)
    assert info.reader == "pyav" and reason in info.fallback
    assert_shows(videos, frames)


def test_frames_hidden_by_an_edit_list_do_not_shift_the_others(videos) -> None:
    path = videos.video("hidden.mp4", videos.steady(60, start_s=-0.08))
    info, frames = assert_same_frames(path, fps=5.0)
    assert info.reader == "pyav" and "edit list" in info.fallback
    assert [frame.timestamp_s for frame in frames] == pytest.approx([0.2 * k for k in range(12)])
    assert np.abs(frames[0].pixels.astype(int) - videos.pixels(2)).mean() < 12


@pytest.mark.parametrize(("matrix", "turns"), [(QUARTER_TURN, 3), (HALF_TURN, 2)])
def test_rotated_as_displayed(videos, clip: Path, matrix: tuple[int, ...], turns: int) -> None:
    content = bytearray(clip.read_bytes())
    place = content.index(b"tkhd") + 44
    content[place : place + 36] = struct.pack(">9i", *matrix)
    info, frames = assert_same_frames(videos.data("rotated.mp4", bytes(content)))
    _, upright = read(clip, "pyav")
    assert info.reader == "pyav" and "rotated" in info.fallback
    assert (info.width, info.height) == ((48, 64) if turns % 2 else (64, 48))
    for frame, reference in zip(frames, upright, strict=True):
        assert np.abs(frame.pixels.astype(int) - np.rot90(reference.pixels, turns)).mean() < 2


@pytest.mark.parametrize("reader", READERS)
def test_facts_of_the_file(clip: Path, reader: str) -> None:
    info, _ = read(clip, reader)
    assert (info.reader, info.codec, info.width, info.height, info.num_frames) == (reader, "h264", 64, 48, 100)
    assert info.native_fps == 25 and info.duration_s == pytest.approx(4.0)
    assert info.open_ms > 0


def test_titles_in_no_known_encoding_are_no_reason_to_refuse(videos) -> None:
    whole, name = videos.video("plain.mp4", videos.steady(50)).read_bytes(), b"VideoHandler"
    assert name in whole
    path = videos.data("strange.mp4", whole.replace(name, b"\xff\xfe" * (len(name) // 2)))
    _, frames = read(path, "pyav")
    assert len(frames) == 4

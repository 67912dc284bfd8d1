"""What is wrong with a file is told by kind, the same for both readers, here and in the decoder process."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from stc_lab.video import READERS, DecoderProcess, VideoError, check_video_settings, open_video

pytestmark = pytest.mark.parametrize("reader", READERS)


def failure(path: Path, reader: str, process: DecoderProcess, fps: float = 5.0) -> tuple[VideoError, list[int]]:
    """The error, and the frames that came before it; the same when decoded in this process."""
    failures = []
    for where in ({"process": process}, {"in_process": True}):
        indices: list[int] = []
        with pytest.raises(VideoError) as caught, open_video(path, reader=reader, fps=fps, **where) as source:
            indices.extend(frame.index for frame in source)
        failures.append((caught.value, indices))
    (error, indices), (error_here, indices_here) = failures
    assert (error.kind, error.reason, indices) == (error_here.kind, error_here.reason, indices_here)
    assert path.name in error.reason
    return error, indices


def test_missing(videos, reader: str, process: DecoderProcess) -> None:
    assert failure(videos.folder / "nowhere.mp4", reader, process)[0].kind == "missing"


def test_unreadable(videos, reader: str, process: DecoderProcess) -> None:
    for path in (videos.data("text.mp4", b"not a video\n" * 50), videos.data("empty.mp4", b""), videos.folder):
        assert failure(path, reader, process)[0].kind == "unreadable"


def test_no_video_stream(videos, reader: str, process: DecoderProcess) -> None:
    error, _ = failure(videos.audio("sound.mp4"), reader, process)
    assert error.kind == "no_video_stream" and "audio" in error.reason


@pytest.mark.parametrize(("suffix", "kind"), [("avi", "no_frames"), ("mkv", "no_frames"), ("mp4", "no_video_stream")])
def test_no_frames(videos, suffix: str, kind: str, reader: str, process: DecoderProcess) -> None:
    """FFmpeg leaves a track without frames out of an MP4 file altogether."""
    assert failure(videos.video(f"nothing.{suffix}", []), reader, process)[0].kind == kind


def test_truncated_before_its_index(videos, reader: str, process: DecoderProcess) -> None:
    path = videos.cut(videos.video("back.mp4", videos.steady(100)), 0.6)
    error, indices = failure(path, reader, process)
    assert error.kind == "truncated" and indices == []


@pytest.mark.parametrize(("suffix", "options"), [("mp4", {"front_index": True}), ("mkv", {})])
def test_truncated_serves_what_came_before(videos, suffix, options, reader: str, process: DecoderProcess) -> None:
    whole = videos.video(f"front.{suffix}", videos.steady(300), **options)
    error, indices = failure(videos.cut(whole, 0.6), reader, process)
    assert error.kind == "truncated"
    assert 10 < len(indices) < 60
    assert indices == [5 * point for point in range(len(indices))]


def test_failure_comes_back_on_every_later_call(videos, reader: str) -> None:
    path = videos.cut(videos.video("front.mkv", videos.steady(200)), 0.5)
    with open_video(path, reader=reader, fps=5.0, in_process=True) as source:
        assert len(list(source.frames(until_s=1.0))) == 6
        for _ in range(2):
            with pytest.raises(VideoError, match="broken after"):
                list(source.frames())


def test_damage_in_the_middle_is_not_papered_over(videos, reader: str, process: DecoderProcess) -> None:
    path = videos.video("damaged.mp4", videos.steady(300), front_index=True, bf="0", g="30")
    content = bytearray(path.read_bytes())
    start = int(len(content) * 0.5)
    content[start : start + 2000] = bytes(2000)
    error, indices = failure(videos.data("damaged.mp4", bytes(content)), reader, process)
    assert error.kind == "truncated"
    assert 0 < len(indices) < 60


def test_error_survives_pickling(reader: str) -> None:
    error = pickle.loads(pickle.dumps(VideoError("why", "timeout")))
    assert (error.kind, error.reason) == ("timeout", "why")


@pytest.mark.parametrize(
    ("setting", "value"),
    [*(("fps", value) for value in (0, -1.0, float("nan"), "1", True)), ("timeout_s", 0), ("timeout_s", None)],
)
def test_wrong_number_names_field_and_value(clip: Path, reader: str, setting: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{setting}={value!r}: choose"):
        open_video(clip, **{"reader": reader, setting: value})


def test_wrong_reader_names_the_choices(reader: str) -> None:
    with pytest.raises(ValueError, match=r"reader='opencv': choose one of decord, pyav"):
        check_video_settings("opencv", 1.0, 60.0)

"""Small made videos whose frames say which frame they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from stc_lab.video import DecoderProcess

TICKS_PER_S = 12800
WIDTH, HEIGHT = 64, 48


class VideoMaker:
    """Writes small files into ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def steady(num_frames: int, start_s: float = 0.0, fps: float = 25.0) -> list[float]:
        """Times of a constant frame rate."""
        return [start_s + number / fps for number in range(num_frames)]

    @staticmethod
    def pixels(number: int) -> np.ndarray:
        """A picture whose grey level and bar width tell the number of the frame."""
        pixels = np.full((HEIGHT, WIDTH, 3), (number * 7) % 256, np.uint8)
        pixels[:, : (number * 3) % WIDTH] = (255 - number * 5) % 256
        return pixels

    def video(
        self, name: str, times_s: Sequence[float], codec: str = "libx264", front_index: bool = False, **options: str
    ) -> Path:
        """A video with one frame at each of ``times_s``; no times give a video stream without frames."""
        time_base = Fraction(1, TICKS_PER_S)
        path = self.folder / name
        with av.open(str(path), "w", options={"movflags": "faststart"} if front_index else {}) as container:
            stream = container.add_stream(codec, rate=25, options=options)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            stream.codec_context.time_base = stream.time_base = time_base
            container.start_encoding()
            for number, time_s in enumerate(times_s):
                frame = av.VideoFrame.from_ndarray(self.pixels(number), format="rgb24")
                frame.pts, frame.time_base = round(time_s * TICKS_PER_S), time_base
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    def audio(self, name: str) -> Path:
        """A file with sound and no picture."""
        path = self.folder / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=16000)
            for block in range(20):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 16000, block * 1024
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    def data(self, name: str, content: bytes) -> Path:
        """A file of given bytes."""
        path = self.folder / name
        path.write_bytes(content)
        return path

    def cut(self, path: Path, share: float) -> Path:
        """The first ``share`` of the bytes of ``path``."""
        content = path.read_bytes()
        return self.data(f"cut_{path.name}", content[: int(len(content) * share)])


@pytest.fixture
def videos(tmp_path: Path) -> VideoMaker:
    """Maker of videos in the folder of the test."""
    return VideoMaker(tmp_path)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds at 25 frames a second, a key frame each second."""
    maker = VideoMaker(tmp_path_factory.mktemp("video"))
    return maker.video("clip.mp4", maker.steady(100), front_index=True, g="25")


@pytest.fixture(scope="module")
def process() -> Iterator[DecoderProcess]:
    """One decoder process for the tests of a module."""
    with DecoderProcess() as decoder_process:
        yield decoder_process

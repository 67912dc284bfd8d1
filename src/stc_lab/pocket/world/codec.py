"""Real h264 for the held-out streams, and a cheap stand-in with the same kind of loss for training pictures."""

from __future__ import annotations

import tempfile
from pathlib import Path

import av
import numpy as np

from stc_lab.pocket.world.render import Renderer
from stc_lab.pocket.world.script import Script
from stc_lab.pocket.world.vocabulary import NATIVE_FPS


def write_video(renderer: Renderer, path: Path, fps: int = NATIVE_FPS, crf: int = 20) -> None:
    """Encode the whole script as h264 (yuv420p, one thread, so that a given encoder build repeats itself)."""
    script = renderer.script
    with av.open(str(path), "w", format="mp4") as container:
        options = {"crf": str(crf), "preset": "veryfast", "threads": "1"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.pix_fmt = "yuv420p"
        first = renderer.frame(0.0)
        stream.height, stream.width = first.shape[:2]
        for index in range(script.duration_s * fps):
            picture = av.VideoFrame.from_ndarray(renderer.frame(index / fps), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def coded_frames(script: Script) -> list[np.ndarray]:
    """All frames of a stream, uint8 [H, W, 3] each, as they come back from h264."""
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        write_video(Renderer(script), Path(file.name))
        with av.open(file.name) as container:
            return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def codec_like(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Chroma at half resolution and coarse luma: uint8 [F, H, W, 3] to the same."""
    f, h, w, c = images.shape
    luma = np.round(images.mean(axis=-1, dtype=np.float32, keepdims=True) / (step := rng.uniform(2.0, 8.0))) * step
    chroma = (images - luma).reshape(f, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))
    return np.clip(luma + chroma.repeat(2, axis=1).repeat(2, axis=2), 0, 255).astype(np.uint8)

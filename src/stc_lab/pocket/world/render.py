"""Frames of a script: drawn, and coded as a video would code them."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path

import av
import numpy as np

from stc_lab.pocket.world.script import Script, Track
from stc_lab.pocket.world.vocabulary import COLOR_NAMES, COLORS, IMAGE_SIZE, NATIVE_FPS, SHAPES

CANVAS = IMAGE_SIZE + 48
TOP = (CANVAS - IMAGE_SIZE) // 2
Box = tuple[float, float, float, int]
OVERSAMPLING = 3
"""Shapes are drawn at three times their size and averaged down."""


class Ground:
    """A static scene: texture of low saturation with saturated clutter that is none of the shapes.

    ``image`` float32 [CANVAS, CANVAS, 3]; ``clutter`` holds (x, y, size, color index) boxes in canvas pixels.
    """

    def __init__(self, rng: np.random.Generator, textured: bool = True) -> None:
        self.image = _texture(rng) if textured else np.zeros((CANVAS, CANVAS, 3), np.float32)
        self.clutter: list[Box] = []
        for _ in range(int(rng.integers(9, 17))):
            self._add_clutter(rng)

    def _add_clutter(self, rng: np.random.Generator) -> None:
        size = int(rng.integers(5, 13))
        x, y = rng.integers(0, CANVAS - size, size=2)
        color = int(rng.integers(len(COLOR_NAMES)))
        mask = _blob(rng, size)[..., None]
        paint = np.float32(COLORS[COLOR_NAMES[color]]) * rng.uniform(0.7, 1.0)
        area = self.image[y : y + size, x : x + size]
        area += mask * (paint - area)
        self.clutter.append((x + size / 2, y + size / 2, size, color))


class Renderer:
    """Draws frames of a script; ``frame(t)`` depends on nothing but the script and ``t``.

    ``textured=False`` leaves out the texture, for those who need only ``ground(t).clutter``.
    """

    def __init__(self, script: Script, textured: bool = True) -> None:
        self.script = script
        rng = np.random.default_rng([script.seed, script.duration_s, 1])
        self._grounds = [Ground(rng, textured) for _ in range(1 if script.cut_s is None else 2)]
        self._tints = rng.uniform(-14, 14, size=(len(script.tracks), 3)).astype(np.float32)
        self._noise = rng.standard_normal((4 * IMAGE_SIZE if textured else 1, IMAGE_SIZE, 3), np.float32)

    def ground(self, time_s: float) -> tuple[Ground, int]:
        """The scene in view at ``time_s`` and the column of the canvas at the left edge of the image."""
        after_cut = self.script.cut_s is not None and time_s >= self.script.cut_s
        drift = self.script.pan_px_per_s * time_s
        offset = drift if drift >= 0 else CANVAS - IMAGE_SIZE + drift
        return self._grounds[int(after_cut)], int(np.clip(offset, 0, CANVAS - IMAGE_SIZE))

    def frame(self, time_s: float) -> np.ndarray:
        """The picture at ``time_s``: uint8 [IMAGE_SIZE, IMAGE_SIZE, 3]."""
        ground, left = self.ground(time_s)
        image = ground.image[TOP : TOP + IMAGE_SIZE, left : left + IMAGE_SIZE].copy()
        for track, tint in zip(self.script.tracks, self._tints, strict=True):
            if track.is_visible(time_s):
                _draw(image, track, time_s, tint)
        image += self.script.noise_sigma * self._noise_at(time_s)
        return np.clip(image, 0, 255).astype(np.uint8)

    def _noise_at(self, time_s: float) -> np.ndarray:
        """A window of a fixed noise field, elsewhere for each frame."""
        shift = int(np.random.default_rng([self.script.seed, int(time_s * 1000)]).integers(3 * IMAGE_SIZE))
        return self._noise[shift : shift + IMAGE_SIZE]


def _draw(image: np.ndarray, track: Track, time_s: float, tint: np.ndarray) -> None:
    x, y = track.position(time_s)
    left, top = round(x - track.size / 2), round(y - track.size / 2)
    mask = shape_mask(track.shape, track.size)[..., None]
    area = image[top : top + track.size, left : left + track.size]
    area += mask * (np.float32(COLORS[track.color(time_s)]) + tint - area)


def _texture(rng: np.random.Generator) -> np.ndarray:
    """Waves and coarse patches around a dull colour."""
    y, x = np.mgrid[0:CANVAS, 0:CANVAS].astype(np.float32)
    luma = np.zeros((CANVAS, CANVAS), np.float32)
    for _ in range(4):
        fx, fy, phase = rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5), rng.uniform(0, 6.28)
        luma += rng.uniform(3, 11) * np.sin(fx * x + fy * y + phase)
    cells = rng.normal(0, 12, size=(13, 13, 3)).astype(np.float32)
    patches = np.kron(cells, np.ones((12, 12, 1), np.float32))[:CANVAS, :CANVAS]
    base = rng.uniform(70, 165) + rng.uniform(-22, 22, size=3)
    return (base + luma[..., None] + patches).astype(np.float32)


def _blob(rng: np.random.Generator, size: int) -> np.ndarray:
    """Opacity [size, size] of something that is no shape: a filled half-plane cut, a stroke, or specks."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(axis, axis)
    angle = rng.uniform(0, 2 * np.pi)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    match int(rng.integers(3)):
        case 0:
            inside = (np.hypot(u, v * rng.uniform(1.4, 2.4)) < 0.95) & (u > rng.uniform(-0.9, -0.3))
        case 1:
            inside = abs(v + 0.3 * np.sin(3 * u)) < 0.28
        case _:
            inside = rng.random((size, size)) < 0.45
    return inside.astype(np.float32)


@lru_cache(maxsize=256)
def shape_mask(shape: str, size: int) -> np.ndarray:
    """Opacity of ``shape`` in a box of ``size`` pixels: float32 [size, size] in [0, 1].

    Raises:
        ValueError: unknown shape.
    """
    if shape not in SHAPES:
        raise ValueError(f"shape={shape!r} is unknown; choose from {', '.join(SHAPES)}")
    fine = size * OVERSAMPLING
    axis = (np.arange(fine) + 0.5) / fine * 2 - 1
    x, y = np.meshgrid(axis, axis)
    inside = _inside(shape, x, y).astype(np.float32)
    return inside.reshape(size, OVERSAMPLING, size, OVERSAMPLING).mean(axis=(1, 3))


def _inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Membership of points with coordinates in [-1, 1]."""
    radius = np.hypot(x, y)
    match shape:
        case "square":
            return np.maximum(abs(x), abs(y)) < 0.9
        case "ring":
            return (radius < 1.0) & (radius > 0.52)
        case "plus":
            return np.minimum(abs(x), abs(y)) < 0.3
        case "bars":
            return (abs(y) > 0.28) & (abs(y) < 0.95)
        case "cross":
            return np.minimum(abs(x + y), abs(x - y)) < 0.42
        case _:
            return (y < 0.92) & (y > 2.0 * abs(x) - 1.0)


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

"""What happens in a stream: objects with visible intervals, colours over time and paths."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stc_lab.pocket.world.vocabulary import COLOR_NAMES, IMAGE_SIZE, SHAPES, corner

KINDS = ("stay", "come", "go", "visit", "blink")
KIND_WEIGHTS = (0.20, 0.24, 0.22, 0.20, 0.14)
MIN_DISTANCE_PX = 18.0
CORNER_MARGIN_PX = 8.0


@dataclass(frozen=True)
class Track:
    """One object. Every event lies half-way between two whole seconds, so that a 1 fps observer sees all."""

    shape: str
    size: int
    visible_s: tuple[tuple[float, float], ...]
    colors: tuple[tuple[float, str], ...]
    path: tuple[tuple[float, float, float], ...]

    def is_visible(self, time_s: float) -> bool:
        """Whether the object can be seen at ``time_s``."""
        return any(start <= time_s < end for start, end in self.visible_s)

    def color(self, time_s: float) -> str:
        """Colour at ``time_s`` (the last one that has begun)."""
        return [name for start, name in self.colors if start <= time_s or start == self.colors[0][0]][-1]

    def position(self, time_s: float) -> tuple[float, float]:
        """Centre (x, y) in pixels at ``time_s``, linear between way points."""
        times, xs, ys = zip(*self.path, strict=True)
        return float(np.interp(time_s, times, xs)), float(np.interp(time_s, times, ys))

    @property
    def first_s(self) -> float:
        """When it is first seen."""
        return self.visible_s[0][0]

    @property
    def last_s(self) -> float:
        """When it is seen no more."""
        return self.visible_s[-1][1]

    def num_arrivals(self, time_s: float) -> int:
        """How often it has come so far (blinking counts each return)."""
        return sum(start <= time_s for start, _ in self.visible_s)


@dataclass(frozen=True)
class Script:
    """A whole stream. ``cut_s`` is when the camera cuts to other ground, ``pan_px_per_s`` how fast it drifts."""

    seed: int
    duration_s: int
    tracks: tuple[Track, ...]
    cut_s: float | None = None
    pan_px_per_s: float = 0.0
    noise_sigma: float = 3.0
    never: tuple[str, ...] = field(default=())


def sample_script(seed: int, duration_s: int) -> Script:
    """Draw a stream of ``duration_s`` seconds; the same arguments give the same stream."""
    rng = np.random.default_rng([seed, duration_s])
    num_objects = int(rng.integers(3, 6) if duration_s <= 16 else rng.integers(4, 7))
    # Every shape comes at most once, so that a question can name it.
    shapes = [str(s) for s in rng.permutation(SHAPES)]
    tracks: list[Track] = []
    for shape in shapes[:num_objects]:
        track = _place(rng, shape, duration_s, tracks)
        if track is not None:
            tracks.append(track)
    return Script(
        seed=seed,
        duration_s=duration_s,
        tracks=tuple(tracks),
        cut_s=float(rng.integers(3, duration_s - 2)) - 0.5 if rng.random() < 0.12 else None,
        pan_px_per_s=float(rng.choice([-1.5, 1.5])) if rng.random() < 0.12 else 0.0,
        noise_sigma=float(rng.uniform(2.0, 5.0)),
        never=tuple(s for s in SHAPES if s not in {t.shape for t in tracks}),
    )


def _place(rng: np.random.Generator, shape: str, duration_s: int, others: list[Track]) -> Track | None:
    """A track that never comes too close to the others nor shares their colour while both are there."""
    for _ in range(60):
        # Drawn again until it collides with none of the others.
        visible = _visibility(rng, duration_s)
        track = Track(
            shape=shape,
            size=int(rng.integers(10, 15)),
            visible_s=visible,
            colors=_colors(rng, visible, duration_s),
            path=_path(rng, visible, duration_s),
        )
        if _fits(track, others, duration_s):
            return track
    return None


def _visibility(rng: np.random.Generator, duration_s: int) -> tuple[tuple[float, float], ...]:
    end = duration_s + 1.0
    kind = str(rng.choice(KINDS, p=KIND_WEIGHTS))
    # Changes happen at half seconds, never at the moment of a sampled frame.
    early, late = duration_s // 6 + 1, duration_s - 2
    first = float(rng.integers(early, late)) + 0.5
    match kind:
        case "stay":
            return ((0.0, end),)
        case "come":
            return ((first, end),)
        case "go":
            return ((0.0, first),)
        case "visit":
            start = float(rng.integers(1, late - 2)) + 0.5
            return ((start, start + float(rng.integers(2, max(3, duration_s // 3)))),)
    return _blinks(rng, duration_s)


def _blinks(rng: np.random.Generator, duration_s: int) -> tuple[tuple[float, float], ...]:
    """Two to four visits of two or three seconds with gaps of two or three."""
    start = float(rng.integers(0, 3)) + (0.5 if rng.random() < 0.5 else 1.5)
    intervals = []
    for _ in range(int(rng.integers(2, 5))):
        stop = start + float(rng.integers(2, 4))
        if stop > duration_s:
            break
        intervals.append((start, stop))
        start = stop + float(rng.integers(2, 4))
    return tuple(intervals) or ((0.0, duration_s + 1.0),)


def _colors(rng: np.random.Generator, visible: tuple, duration_s: int) -> tuple[tuple[float, str], ...]:
    names = [str(c) for c in rng.permutation(COLOR_NAMES)]
    start, stop = visible[0]
    colors = [(start, names[0])]
    if min(stop, duration_s) - start >= 5 and rng.random() < 0.4:
        change = float(rng.integers(int(start) + 2, int(min(stop, duration_s)) - 1)) + 0.5
        colors.append((change, names[1]))
    return tuple(colors)


def _path(rng: np.random.Generator, visible: tuple, duration_s: int) -> tuple[tuple[float, float, float], ...]:
    x, y = _spot(rng)
    start, stop = visible[0][0], min(visible[-1][1], duration_s)
    # Four in ten of those that stay long enough move to another corner.
    if stop - start < 5 or rng.random() > 0.4:
        return ((0.0, x, y),)
    depart = float(rng.integers(int(start) + 1, int(stop) - 3)) + 0.5
    arrive = depart + float(rng.integers(2, 5))
    for _ in range(20):
        x2, y2 = _spot(rng)
        if corner(x2, y2) != corner(x, y):
            break
    return ((depart, x, y), (arrive, x2, y2))


def _spot(rng: np.random.Generator) -> tuple[float, float]:
    """A point well inside one corner of the image."""
    middle, edge = IMAGE_SIZE / 2, 9.0
    x, y = rng.uniform(edge, middle - CORNER_MARGIN_PX, size=2)
    return (
        float(IMAGE_SIZE - x if rng.random() < 0.5 else x),
        float(IMAGE_SIZE - y if rng.random() < 0.5 else y),
    )


def _fits(track: Track, others: list[Track], duration_s: int) -> bool:
    for time_s in np.arange(0.0, duration_s, 0.5):
        if not track.is_visible(time_s):
            continue
        x, y = track.position(time_s)
        for other in others:
            if not other.is_visible(time_s):
                continue
            # Two of one colour could not be told apart by a question.
            if other.color(time_s) == track.color(time_s):
                return False
            x2, y2 = other.position(time_s)
            if np.hypot(x - x2, y - y2) < MIN_DISTANCE_PX:
                return False
    return True

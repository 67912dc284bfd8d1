"""Labels from the script alone: what each of the 14 x 14 cells of a picture shows, and of clips what is there, when a
watched question is to be answered, and where an answer lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stc_lab.pocket.world.questions import PocketQuestion
from stc_lab.pocket.world.render import TOP, Renderer
from stc_lab.pocket.world.script import Script
from stc_lab.pocket.world.vocabulary import COLOR_NAMES, CORNERS, IMAGE_SIZE, SHAPES, corner

BACKGROUND, CLUTTER = len(SHAPES), len(SHAPES) + 1
NO_COLOR = len(COLOR_NAMES)
NUM_KINDS, NUM_COLORS = len(SHAPES) + 2, len(COLOR_NAMES) + 1
MIN_COVERAGE = 0.12


@dataclass(frozen=True)
class CellLabels:
    """For T pictures of n x n cells: ``kind`` and ``color`` int [T, n*n], ``coverage`` float32 [T, n*n] of what
    dominates a cell, ``is_object`` bool [T, n*n]."""

    kind: np.ndarray
    color: np.ndarray
    coverage: np.ndarray

    @property
    def is_object(self) -> np.ndarray:
        """Cells dominated by one of the shapes."""
        return self.kind < BACKGROUND


def cell_labels(renderer: Renderer, times_s: np.ndarray, cells: int = 14) -> CellLabels:
    """Labels of the pictures at ``times_s`` [T].

    An object beats clutter; a cell of which less than 12 % is covered is background.
    """
    boxes = _boxes(renderer, times_s)
    covered = _coverage(boxes, cells)
    claim = np.where(covered > MIN_COVERAGE, covered + 10.0 * (boxes[..., 3, None] < BACKGROUND), 0.0)
    winner = claim.argmax(axis=1)
    won = np.take_along_axis(claim, winner[:, None], axis=1)[:, 0] > 0
    pick = lambda values: np.take_along_axis(values, winner, axis=1)  # noqa: E731
    return CellLabels(
        kind=np.where(won, pick(boxes[..., 3]), BACKGROUND).astype(np.int64),
        color=np.where(won, pick(boxes[..., 4]), NO_COLOR).astype(np.int64),
        coverage=np.where(won, np.take_along_axis(covered, winner[:, None], axis=1)[:, 0], 0.0).astype(np.float32),
    )


def _boxes(renderer: Renderer, times_s: np.ndarray) -> np.ndarray:
    """Rows (x, y, size, kind, color) of everything in view, size 0 where invisible: float [T, N, 5]."""
    per_time = [_boxes_at(renderer, float(t)) for t in times_s]
    most = max(len(rows) for rows in per_time)
    boxes = np.zeros((len(per_time), most, 5))
    for index, rows in enumerate(per_time):
        boxes[index, : len(rows)] = rows
    return boxes


def _boxes_at(renderer: Renderer, time_s: float) -> list[tuple]:
    ground, left = renderer.ground(time_s)
    rows = [(x - left, y - TOP, size, CLUTTER, color) for x, y, size, color in ground.clutter]
    for track in renderer.script.tracks:
        if track.is_visible(time_s):
            x, y = track.position(time_s)
            rows.append((x, y, track.size, SHAPES.index(track.shape), COLOR_NAMES.index(track.color(time_s))))
    return rows


def _coverage(boxes: np.ndarray, cells: int) -> np.ndarray:
    """Share of each cell covered by each box: float [T, N, cells*cells]."""
    edges = np.arange(cells + 1) * (IMAGE_SIZE / cells)

    def along(center: np.ndarray) -> np.ndarray:
        half = boxes[..., 2, None] / 2
        start = np.maximum(edges[:-1], center[..., None] - half)
        return np.clip(np.minimum(edges[1:], center[..., None] + half) - start, 0, None)

    product = along(boxes[..., 1])[..., :, None] * along(boxes[..., 0])[..., None, :]
    return product.reshape(*boxes.shape[:2], -1) / (IMAGE_SIZE / cells) ** 2


ABSENT = -1
WATCHED = {
    "color_now": "what color is the {} now ?",
    "shape_now": "which shape is {} now ?",
    "where_now": "where is the {} now ?",
}
"""Questions that can be watched: none of them has an answer before its object is there."""


@dataclass(frozen=True)
class States:
    """Colour and corner of every shape at whole seconds, ``ABSENT`` where it is not there: int [T, shapes] each."""

    color: np.ndarray
    corner: np.ndarray

    @classmethod
    def of(cls, script: Script) -> States:
        """From the script alone."""
        table = np.full((2, script.duration_s, len(SHAPES)), ABSENT)
        for track in script.tracks:
            for second in filter(track.is_visible, range(script.duration_s)):
                shape = SHAPES.index(track.shape)
                table[0, second, shape] = COLOR_NAMES.index(track.color(second))
                table[1, second, shape] = CORNERS.index(corner(*track.position(second)))
        return cls(table[0], table[1])

    def answers(self, task: str, subject: str) -> np.ndarray:
        """Answer at every second to a question of :data:`WATCHED`, ``ABSENT`` where it has none: int [T]."""
        if task != "shape_now":
            table = self.color if task == "color_now" else self.corner
            return table[:, SHAPES.index(subject)]
        has_color = self.color == COLOR_NAMES.index(subject)
        return np.where(has_color.any(axis=1), has_color.argmax(axis=1), ABSENT)


@dataclass(frozen=True)
class Watch:
    """A question watched from ``asked_at`` clips on, answered after the clips ``answered_at``, judged after
    ``num_clips``; ``responds``: whether that is the time to respond."""

    text: str
    task: str
    asked_at: int
    answered_at: tuple[int, ...]
    num_clips: int
    responds: bool


def is_time(answers: Sequence[int], last: int) -> bool:
    """Whether to respond: ``answers`` at the ends of the clips so far; ``last`` was given before (or ``ABSENT``)."""
    return answers[-1] not in (ABSENT, last)


def follow_watch(
    answers: np.ndarray, asked_at: int, num_clips: int, rng: np.random.Generator | None = None
) -> tuple[tuple[int, ...], int]:
    """Clips after which a watched question was answered before clip ``num_clips``, and the last answer.

    ``answers`` [clips] at their ends. With ``rng`` some responses are missed and a few are given in vain, so that a
    model learns to go on from its own mistakes.
    """
    answered, last = [], ABSENT
    for index in range(asked_at, num_clips - 1):
        responds = is_time(answers[: index + 1], last)
        if rng is not None and rng.random() < (0.12 if responds else 0.04):
            responds = not responds
        if responds:
            answered.append(index + 1)
            last = int(answers[index])
    return tuple(answered), last


def sample_watches(
    rng: np.random.Generator, states: States, num_clips: int, clip_frames: int, count: int
) -> list[Watch]:
    """``count`` watched questions about a stream's complete clips, half of them to be answered now if possible."""
    drawn = [_draw(rng, states, num_clips, clip_frames) for _ in range(4 * count)]
    wanted = [watch for watch in drawn if watch.responds][: (count + 1) // 2]
    others = [watch for watch in drawn if not watch.responds]
    return (wanted + others)[:count]


def _draw(rng: np.random.Generator, states: States, most: int, clip_frames: int) -> Watch:
    task = str(rng.choice(list(WATCHED)))
    subject = str(rng.choice(COLOR_NAMES if task == "shape_now" else SHAPES))
    answers = states.answers(task, subject)[clip_frames - 1 :: clip_frames]
    num_clips = int(rng.integers(1, most + 1))
    asked_at = 0 if rng.random() < 0.5 else int(rng.integers(num_clips))
    answered, last = follow_watch(answers, asked_at, num_clips, rng)
    responds = is_time(answers[:num_clips], last)
    return Watch(WATCHED[task].format(subject), task, asked_at, answered, num_clips, responds)


def relevant_clips(states: States, question: PocketQuestion, num_frames: int, clip_frames: int) -> np.ndarray:
    """In which clips the answer lies, bool [clips] (never all False); the stream has ``num_frames`` so far."""
    seconds = _relevant_seconds(states, question, num_frames)
    marks = np.zeros(-(-num_frames // clip_frames), bool)
    marks[np.flatnonzero(seconds) // clip_frames] = True
    return marks if marks.any() else ~marks


def _relevant_seconds(states: States, question: PocketQuestion, num_frames: int) -> np.ndarray:
    colors, corners = states.color[:num_frames], states.corner[:num_frames]
    there = colors != ABSENT
    if question.group == "realtime":
        return np.arange(num_frames) == num_frames - 1
    if question.task in ("not_yet", "count_so_far"):
        return _arrivals(there).any(axis=1)
    named = next(word for word in (*question.text.split(), question.right) if word in SHAPES)
    shape = SHAPES.index(named)
    seen = np.flatnonzero(there[:, shape])
    match question.task:
        case "color_gone" | "where_gone" | "which_gone" | "come_so_far":
            return np.arange(num_frames) == (seen[-1] if len(seen) else -1)
        case "color_before":
            return colors[:, shape] == COLOR_NAMES.index(question.right)
        case "where_first":
            return corners[:, shape] == CORNERS.index(question.right)
    return _arrivals(there)[:, shape]


def _arrivals(there: np.ndarray) -> np.ndarray:
    """Seconds at which a shape is there that was not there before: bool [T, shapes]."""
    return there & ~np.concatenate([np.zeros_like(there[:1]), there[:-1]])

"""Questions about a script: about now, about the past, and about what has come so far or is still to come.

An asker gets (rng, script, time) and returns ``(text, right, wrong)`` or ``None`` when it makes no sense then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from stc_lab.pocket.world.script import Script, Track
from stc_lab.pocket.world.vocabulary import COLOR_NAMES, CORNERS, NUMBERS, SHAPES, corner

ASK_DELAY_S = 0.2
LETTERS = "ABCD"
Asked = tuple[str, str, list[str]] | None
Asker = Callable[[np.random.Generator, Script, float], Asked]


@dataclass(frozen=True)
class PocketQuestion:
    """A question with its four options; ``answer`` is a letter, ``group`` one of the three families."""

    time_s: float
    text: str
    options: tuple[str, ...]
    answer: str
    task: str
    group: str

    @property
    def right(self) -> str:
        """The option that is right."""
        return self.options[LETTERS.index(self.answer)]


def _seen(script: Script, t: float) -> list[Track]:
    return [k for k in script.tracks if k.first_s <= t]


def _visible(script: Script, t: float) -> list[Track]:
    return [k for k in script.tracks if k.is_visible(t)]


def _gone(script: Script, t: float) -> list[Track]:
    """Seen before, not there now (a blinking object between two visits counts: it is not there now)."""
    return [k for k in _seen(script, t) if not k.is_visible(t)]


def _pick(rng: np.random.Generator, items: list) -> Track | None:
    return items[int(rng.integers(len(items)))] if items else None


def _others(names: tuple[str, ...], right: str) -> list[str]:
    return [name for name in names if name != right]


def _corner_of(track: Track, t: float) -> str | None:
    return corner(*track.position(t), margin=6.0)


def _last_seen_s(track: Track, t: float) -> float:
    """The last whole second before ``t`` at which the object was there."""
    ends = [end for start, end in track.visible_s if start <= t]
    return np.floor(min(ends[-1], t))


def color_now(rng, script, t) -> Asked:
    """Realtime: the present colour of a visible shape."""
    track = _pick(rng, _visible(script, t))
    return track and (f"what color is the {track.shape} now ?", track.color(t), _others(COLOR_NAMES, track.color(t)))


def shape_now(rng, script, t) -> Asked:
    """Realtime: which shape has a given colour now."""
    track = _pick(rng, _visible(script, t))
    return track and (f"which shape is {track.color(t)} now ?", track.shape, _others(SHAPES, track.shape))


def where_now(rng, script, t) -> Asked:
    """Realtime: the corner in which a visible shape is."""
    track = _pick(rng, _visible(script, t))
    if track is None or (place := _corner_of(track, np.floor(t))) is None:
        return None
    return f"where is the {track.shape} now ?", place, _others(CORNERS, place)


def here_now(rng, script, t) -> Asked:
    """Realtime: the only one of four shapes that is there now."""
    visible = _visible(script, t)
    absent = _others(SHAPES, "")
    track = _pick(rng, visible)
    absent = [s for s in absent if s not in {k.shape for k in visible}]
    return ("which shape is here now ?", track.shape, absent) if track and len(absent) >= 3 else None


def color_gone(rng, script, t) -> Asked:
    """Retrospective: the last colour of a shape that is not there any more."""
    track = _pick(rng, _gone(script, t))
    if track is None:
        return None
    color = track.color(_last_seen_s(track, t))
    return f"what color was the {track.shape} ?", color, _others(COLOR_NAMES, color)


def color_before(rng, script, t) -> Asked:
    """Retrospective: the colour of a shape before it changed."""
    track = _pick(rng, [k for k in _seen(script, t) if len(k.colors) > 1 and k.colors[1][0] <= t])
    if track is None:
        return None
    color = track.colors[0][1]
    return f"what color was the {track.shape} before ?", color, _others(COLOR_NAMES, color)


def where_gone(rng, script, t) -> Asked:
    """Retrospective: where a shape was that is not there any more."""
    track = _pick(rng, _gone(script, t))
    if track is None or (place := _corner_of(track, _last_seen_s(track, t))) is None:
        return None
    return f"where was the {track.shape} ?", place, _others(CORNERS, place)


def where_first(rng, script, t) -> Asked:
    """Retrospective: where a shape was when it was first seen, asked once it is elsewhere."""
    moved = [k for k in _seen(script, t) if len(k.path) > 1 and k.path[-1][0] <= t and k.path[0][0] > k.first_s]
    track = _pick(rng, moved)
    if track is None or (place := _corner_of(track, np.ceil(track.first_s))) is None:
        return None
    return f"where was the {track.shape} at first ?", place, _others(CORNERS, place)


def which_gone(rng, script, t) -> Asked:
    """Retrospective: the one of four shapes that was there and is not any more."""
    gone = _gone(script, t)
    track = _pick(rng, gone)
    wrong = [s for s in SHAPES if s not in {k.shape for k in gone}]
    return ("which shape was here but is gone ?", track.shape, wrong) if track and len(wrong) >= 3 else None


def not_yet(rng, script, t) -> Asked:
    """Prospective: the one of four shapes that is still to come."""
    seen = [k.shape for k in _seen(script, t)]
    unseen = _others(SHAPES, "")
    unseen = [s for s in unseen if s not in seen]
    if len(seen) < 3 or not unseen:
        return None
    return "which shape has not come yet ?", unseen[int(rng.integers(len(unseen)))], seen


def count_so_far(rng, script, t) -> Asked:
    """Prospective: how many different shapes have come so far."""
    count = len(_seen(script, t))
    return _number("how many shapes have come so far ?", count, rng) if count else None


def times_so_far(rng, script, t) -> Asked:
    """Prospective: how often a blinking shape has come so far."""
    track = _pick(rng, [k for k in _seen(script, t) if len(k.visible_s) > 1])
    return track and _number(f"how many times has the {track.shape} come so far ?", track.num_arrivals(t), rng)


def come_so_far(rng, script, t) -> Asked:
    """Prospective: the one of four shapes that has come so far, rather one that is gone again."""
    seen = _seen(script, t)
    track = _pick(rng, _gone(script, t) or seen)
    unseen = [s for s in SHAPES if s not in {k.shape for k in seen}]
    return ("which shape has come so far ?", track.shape, unseen) if track and len(unseen) >= 3 else None


def _number(text: str, count: int, rng: np.random.Generator) -> Asked:
    """Four neighbouring numbers around ``count``, which stands in any place among them."""
    # The right number stands at any place among four neighbours, so that its size tells nothing.
    low = max(1, count - int(rng.integers(4)))
    low = min(low, len(NUMBERS) - 3)
    return text, str(count), [n for n in NUMBERS[low - 1 : low + 3] if n != str(count)]


FAMILIES: dict[str, tuple[Asker, ...]] = {
    "realtime": (color_now, shape_now, where_now, here_now),
    "retrospective": (color_gone, color_before, where_gone, where_first, which_gone),
    "prospective": (not_yet, count_so_far, times_so_far, come_so_far),
}


def sample_questions(
    script: Script,
    num_questions: int,
    split_seed: int = 0,
    first_s: int = 3,
    families: tuple[str, ...] = tuple(FAMILIES),
    emphasis: Mapping[str, float] = MappingProxyType({}),
) -> list[PocketQuestion]:
    """Questions of a script in time order, not before ``first_s``, the families and the answer letters in turn.

    Within a family every task is tried as often as its ``emphasis`` (1 where not given); training leans on the hard.
    """
    rng = np.random.default_rng([script.seed, script.duration_s, 2, split_seed])
    # Families and letters in turn: neither can be guessed from the rest.
    groups = [families[i % len(families)] for i in range(num_questions)]
    letters = np.concatenate([rng.permutation(4) for _ in range(num_questions // 4 + 1)])
    questions, asked = [], set()
    for group, letter in zip(groups, letters, strict=False):
        # Not every question can be asked of every moment; one that was asked already is no news.
        for _ in range(40):
            question = _try(rng, script, group, int(letter), first_s, emphasis)
            if question is not None and (key := (question.time_s, question.text)) not in asked:
                asked.add(key)
                questions.append(question)
                break
    return sorted(questions, key=lambda q: q.time_s)


def _try(
    rng: np.random.Generator, script: Script, group: str, letter: int, first_s: int, emphasis: Mapping[str, float]
) -> PocketQuestion | None:
    time_s = float(rng.integers(first_s, script.duration_s)) + ASK_DELAY_S
    weights = np.array([emphasis.get(asker.__name__, 1.0) for asker in FAMILIES[group]])
    asker = FAMILIES[group][int(rng.choice(len(weights), p=weights / weights.sum()))]
    asked = asker(rng, script, time_s)
    if not asked or len(asked[2]) < 3:
        return None
    text, right, wrong = asked
    # Three wrong options in any order, the right one at the letter whose turn it is.
    options = [str(w) for w in rng.permutation(wrong)[:3]]
    options.insert(letter, right)
    return PocketQuestion(time_s, text, tuple(options), LETTERS[letter], asker.__name__, group)

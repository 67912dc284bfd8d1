"""What is to be said about a script while it runs: who is there, who comes, goes, turns and moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from stc_lab.pocket.world.script import Script, Track
from stc_lab.pocket.world.vocabulary import SHAPES, corner

MOST_WORDS = 15
"""Longest line, one word a token; the end of it comes on top (LiveCC says 16 tokens at most)."""
CORNER_MARGIN_PX = 4.0


@dataclass(frozen=True)
class Event:
    """Something that can be said. ``verb``: there (at the start), appears, leaves, turns, moves; ``color`` and
    ``place`` where the verb has them, else empty."""

    time_s: float
    shape: str
    verb: str
    color: str = ""
    place: str = ""

    @property
    def words(self) -> str:
        """How it is said."""
        match self.verb:
            case "there":
                return f"{self.color} {self.shape} {self.place}"
            case "appears":
                return f"{self.color} {self.shape} appears {self.place}"
            case "leaves":
                return f"{self.color} {self.shape} leaves"
            case "turns":
                return f"{self.shape} turns {self.color}"
        return f"{self.shape} moves {self.place}"


@dataclass
class SceneTracker:
    """Looks at a script at some moments, in time order, and says what is new since the last one."""

    script: Script
    _known: dict[str, tuple[str, str]] = field(default_factory=dict)
    _has_begun: bool = False

    def look(self, time_s: float) -> list[Event]:
        """Events since the last look, ordered by shape."""
        by_shape = {track.shape: track for track in self.script.tracks}
        news = [event for shape in SHAPES if shape in by_shape for event in self._news(by_shape[shape], time_s)]
        self._has_begun = True
        return news

    def _news(self, track: Track, time_s: float) -> list[Event]:
        shape, known = track.shape, self._known.get(track.shape)
        if not track.is_visible(time_s):
            self._known.pop(shape, None)
            return [Event(time_s, shape, "leaves", color=known[0])] if known else []
        x, y = track.position(time_s)
        color = track.color(time_s)
        place = corner(x, y, CORNER_MARGIN_PX) or (known[1] if known else corner(x, y))
        self._known[shape] = color, place
        if known is None:
            return [Event(time_s, shape, "appears" if self._has_begun else "there", color, place)]
        turned = [Event(time_s, shape, "turns", color=color)] if color != known[0] else []
        return turned + ([Event(time_s, shape, "moves", place=place)] if place != known[1] else [])


def lines(script: Script, turns: Sequence[Sequence[float]]) -> list[str]:
    """What to say after each turn, "" for nothing; ``turns``: the moments seen in each. Too much is cut short."""
    watcher, said = SceneTracker(script), []
    for moments in turns:
        words: list[str] = []
        for event in (event for time_s in moments for event in watcher.look(time_s)):
            if len(words) + len(more := event.words.split()) > MOST_WORDS:
                break
            words += more
        said.append(" ".join(words))
    return said

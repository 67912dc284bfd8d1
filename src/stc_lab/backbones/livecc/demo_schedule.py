"""Which frames the released interactive demo shows when, and what it does with messages; for parity only.

The lab samples on a grid that never looks ahead. The demo differs: it takes, for each half second, the first frame that
ends at or after it, rounds every call up to whole pairs (a call for 4.2 s already shows the frame of 4.5 s), and loses
a new message when the call that carries it brings no new frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

FPS = 2
FIRST_FRAMES, LATER_FRAMES = 6, 2
DEFAULT_MESSAGE = "Please describe the video."


@dataclass(frozen=True)
class DemoTurn:
    """Frames of one turn, the time it covers, and the message it carries (``None``: no new one)."""

    frame_indices: tuple[int, ...]
    start_s: float
    stop_s: float
    message: str | None


@dataclass
class DemoSchedule:
    """``ends_s``: when each frame of the video ends, in seconds."""

    ends_s: Sequence[float]
    _last_s: float = -1 / FPS
    _last_index: int = -1
    _message: str | None = None
    _is_started: bool = field(default=False)

    def call(self, until_s: float, message: str | None) -> list[DemoTurn]:
        """Turns for a call of the demo at stream time ``until_s``."""
        shown = self._frames(until_s)
        if not shown:
            return []
        first = 0 if self._is_started else min(FIRST_FRAMES, len(shown))
        starts = ([0] if first else []) + list(range(first, len(shown), LATER_FRAMES))
        self._is_started = True
        turns = []
        for start, stop in zip(starts, [*starts[1:], len(shown)], strict=True):
            indices, times_s = zip(*shown[start:stop], strict=True)
            turns.append(DemoTurn(indices, times_s[0], times_s[-1] + 1 / FPS, self._news(message)))
        return turns

    def _frames(self, until_s: float) -> list[tuple[int, float]]:
        """(frame index, time) of a call, an even number of them."""
        end_s = self.ends_s[-1]
        until_s = min(until_s, end_s) if self._is_started else max(min(until_s, end_s), FIRST_FRAMES / FPS)
        times_s, time_s = [], self._last_s + 1 / FPS
        if time_s > end_s:
            return []
        while time_s < until_s:
            times_s.append(time_s)
            time_s += 1 / FPS
        times_s += [time_s] * (len(times_s) % 2)
        shown, index = [], self._last_index + 1
        for time_s in times_s:
            while index < len(self.ends_s) and self.ends_s[index] < time_s:
                index += 1
            if index == len(self.ends_s):
                break
            shown.append((index, time_s))
        shown = shown[: len(shown) // 2 * 2]
        if shown:
            self._last_index, self._last_s = shown[-1]
        return shown

    def _news(self, message: str | None) -> str | None:
        """The message if it is new; the first turn always carries one."""
        if not message and not self._message:
            message = DEFAULT_MESSAGE
        if not message or message == self._message:
            return None
        self._message = message
        return message

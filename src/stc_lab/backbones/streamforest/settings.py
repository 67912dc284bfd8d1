"""Sizes and weights of StreamForest's memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MODES = ("online", "lazy")


@dataclass(frozen=True, kw_only=True)
class MemorySettings:
    """Official values by default. Tokens are those of one frame at each age: now, in the window, in an event.

    ``now_frames``: newest frames kept in full; ``short_frames``: frames kept in the window at least, an event is cut
    off its old end once there are ``split_window`` more; ``quota``: tokens of all events together. ``mode``:
    ``online`` merges events as soon as they exceed the quota, ``lazy`` keeps them all and merges a copy per question.
    ``upstream_quirks``: weigh the time of an event by its size after merging instead of by its frames.

    Raises ``ValueError`` for sizes that cannot work.
    """

    now_frames: int = 1
    now_tokens: int = 729
    short_frames: int = 18
    short_tokens: int = 128
    split_window: int = 8
    event_tokens: int = 64
    quota: int = 5120
    similarity_weight: float = 0.4
    time_weight: float = 0.2
    merge_weight: float = 0.4
    mode: Literal["online", "lazy"] = "online"
    upstream_quirks: bool = False

    def __post_init__(self) -> None:
        for field in ("now_frames", "short_frames", "split_window", "event_tokens", "quota"):
            if getattr(self, field) < 1:
                raise ValueError(f"backbone.{field}={getattr(self, field)}: must be at least 1")
        for field in ("similarity_weight", "time_weight", "merge_weight"):
            if getattr(self, field) < 0:
                raise ValueError(f"backbone.{field}={getattr(self, field)}: must be 0 or more")
        if self.mode not in MODES:
            raise ValueError(f"backbone.mode={self.mode}: must be one of {', '.join(MODES)}")
        if not self.event_tokens <= self.short_tokens <= self.now_tokens:
            raise ValueError(
                f"backbone.event_tokens={self.event_tokens}: a frame only shrinks, from backbone.now_tokens="
                f"{self.now_tokens} to backbone.tokens_per_frame={self.short_tokens} to event_tokens"
            )

    def most_tokens(self) -> int:
        """Tokens that the ``online`` memory hands over at most, however long the stream: events, window, now.

        No event is larger than the longest that can be cut off, so a quota below that means one event of that size.
        """
        events = max(self.quota, self.split_window * self.event_tokens)
        window = self.short_frames + self.split_window - 1
        return events + window * self.short_tokens + self.now_frames * self.now_tokens

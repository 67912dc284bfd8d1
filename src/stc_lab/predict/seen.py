"""What a session was shown, and what it said to polls, until a record takes it over."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from stc_lab.predict.frame_log import FrameLog
from stc_lab.types import Answer, Decision

RESPOND, SILENT = "respond", "silent"
"""A decision as it stands among the replies to polls."""


@dataclass
class Seen:
    """Frames that a session was shown so far. ``decode_ms`` of frames whose report is still to come."""

    num_frames: int = 0
    last_frame_time_s: float | None = None
    decode_ms: deque[float] = field(default_factory=deque)
    log: FrameLog = field(default_factory=FrameLog)

    def add(self, timestamp_s: float, decode_ms: float) -> None:
        """Count a frame that was handed to the session."""
        self.num_frames += 1
        self.last_frame_time_s = timestamp_s
        self.decode_ms.append(decode_ms)


@dataclass
class Polls:
    """Replies to the polls of one question, or the model's own decisions about it, in time order."""

    time_s: list[float] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    num_frames_seen: list[int] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)

    def add(self, time_s: float, answer: Answer, num_frames_seen: int) -> None:
        """Note the reply to the poll at ``time_s``."""
        self.time_s.append(time_s)
        self.text.append(answer.text)
        self.num_frames_seen.append(num_frames_seen)
        self.latency_ms.append(round(sum(answer.latency_ms.values()), 3))

    def decided(self, decision: Decision, num_frames_seen: int) -> None:
        """Note a decision; what it cost is part of the cost of its frame."""
        self.time_s.append(decision.time_s)
        self.text.append(RESPOND if decision.responds else SILENT)
        self.num_frames_seen.append(num_frames_seen)
        self.latency_ms.append(0.0)

    def columns(self) -> dict[str, Any]:
        """As a record keeps them; empty for a question that was not polled for."""
        return vars(self) if self.time_s else {}

"""Subtitle files (SubRip)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

ARROW = re.compile(r"^\s*([\d:.,]+)\s*-->\s*([\d:.,]+)")
TAG = re.compile(r"<[^>]+>")


@dataclass(frozen=True)
class Cue:
    """What is written on the screen from ``start_s`` to ``end_s``."""

    start_s: float
    end_s: float
    text: str


def read_subtitles(path: Path) -> list[Cue]:
    """The cues of a file in order, without markup. Cues without text are left out."""
    cues = []
    for block in re.split(r"\n\s*\n", path.read_text(encoding="utf-8-sig", errors="replace").replace("\r", "")):
        lines = block.strip().splitlines()
        times = [(number, match) for number, line in enumerate(lines) if (match := ARROW.match(line))]
        if times:
            number, match = times[0]
            text = " ".join(TAG.sub("", line).strip() for line in lines[number + 1 :]).strip()
            if text:
                cues.append(Cue(_seconds(match[1]), _seconds(match[2]), text))
    return cues


def spoken_at_frames(cues: list[Cue], fps: float) -> list[Cue]:
    """The cues that are on the screen in at least one of the frames at 0, 1/fps, ... seconds."""
    return [cue for cue in cues if math.ceil(cue.start_s * fps - 1e-6) / fps < cue.end_s]


def _seconds(text: str) -> float:
    parts = text.replace(",", ".").split(":")
    return sum(float(part) * 60**power for power, part in enumerate(reversed(parts)))

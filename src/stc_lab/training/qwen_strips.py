"""Pieces of a sequence for a Qwen-VL model: words, tokens with their places, a stream as patches, questions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from stc_lab.language.chat import ELLIPSIS, IM_END, VIDEO_PAD
from stc_lab.language.sequence import Clip, Cursor, TimeRowColumn
from stc_lab.training.models.qwen_vl import pocket_tokenizer
from stc_lab.types import VisualTokens

GRID = (14, 14)
TEXT = -1
"""Number of the patch of a token that is text."""


class Words:
    """Token ids of the pocket tokenizer, remembered: training asks for the same few texts again and again."""

    def __init__(self) -> None:
        self.tokenizer = pocket_tokenizer()
        self._ids = cache(lambda text: tuple(self.tokenizer(text, add_special_tokens=False).input_ids))
        self.video_id, self.im_end_id, self.pad_id = (
            self.tokenizer.convert_tokens_to_ids(token) for token in (VIDEO_PAD, IM_END, self.tokenizer.pad_token)
        )
        self.silence_id = self.token_ids(ELLIPSIS)[-1]

    def token_ids(self, text: str) -> list[int]:
        """Ids of ``text`` as it stands."""
        return list(self._ids(text))


@dataclass
class Strip:
    """Tokens in reading order: ``ids``, ``says`` (the model says this one), ``patches`` and ``cells`` of visual tokens,
    ``positions`` [3, T] in parts. ``next``: where the next token stands."""

    next: float = 0.0
    ids: list[int] = field(default_factory=list)
    says: list[bool] = field(default_factory=list)
    patches: list[int] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)
    parts: list[Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def text(self, ids: Sequence[int], says: bool = False) -> None:
        """Append text."""
        placed, cursor = TimeRowColumn().text(Cursor(self.next), len(ids))
        self.next = cursor.position
        self._add(ids, says, [TEXT] * len(ids), [0] * len(ids), placed)

    def clip(self, video_id: int, numbers: Sequence[int], clip: Clip, axes: TimeRowColumn) -> None:
        """Append the clip of the patches ``numbers``."""
        placed, cursor = axes.clip(Cursor(self.next), clip)
        self.next = cursor.position
        patches = [n for n, frame in zip(numbers, clip.frames, strict=True) for _ in range(frame.num_tokens)]
        cells = torch.cat([frame.positions for frame in clip.frames]).tolist()
        self._add([video_id] * len(cells), False, patches, cells, placed)

    @property
    def positions(self) -> Tensor:
        """Positions [3, T]."""
        return torch.cat(self.parts, dim=1) if self.parts else torch.zeros(3, 0, dtype=torch.double)

    def _add(self, ids: Sequence[int], says: bool, patches: list[int], cells: list[int], placed: Tensor) -> None:
        self.ids += ids
        self.says += [says] * len(ids)
        self.patches += patches
        self.cells += cells
        self.parts.append(placed)


@dataclass(frozen=True)
class Film:
    """A stream at ``fps`` frames a second as patches: ``cells`` int [P, B] that are kept of each.

    Whole pairs come first, then the frames that waited for a partner when a question came: ``halves`` maps the number
    of such a frame to that of its patch.
    """

    fps: float
    num_pairs: int
    cells: Tensor
    halves: dict[int, int]

    def patch(self, number: int, start_frame: int) -> VisualTokens:
        """Patch ``number``, which begins with frame ``start_frame``, without its embeddings."""
        kept = self.cells[number]
        span_s = start_frame / self.fps, (start_frame + 2) / self.fps
        return VisualTokens(torch.empty(len(kept), 0), kept, GRID, 0.0, start_s=span_s[0], stop_s=span_s[1])

    def pairs(self, numbers: Iterable[int]) -> list[VisualTokens]:
        """Whole pairs."""
        return [self.patch(number, 2 * number) for number in numbers]

    def seen(self, time_s: float) -> tuple[int, int | None]:
        """Whole pairs that are complete at ``time_s``, and the frame that waits for its partner, if any."""
        frames = max(0, math.floor(time_s * self.fps + 1e-6) + 1)
        return frames // 2, frames - 1 if frames % 2 else None


@dataclass(frozen=True)
class Asked:
    """A question as the model reads it: ``text`` with its options, ``start`` of the answer, ``letter``, ``word`` that
    answers at the question mark; ``time_s``."""

    time_s: float
    text: str
    start: str
    letter: str
    word: str


@dataclass
class Reading:
    """One sequence and questions about it: question ``i`` sees the first ``visible[i]`` tokens of ``prefix``."""

    prefix: Strip
    questions: list[Strip]
    visible: list[int]
    asked: list[Asked]

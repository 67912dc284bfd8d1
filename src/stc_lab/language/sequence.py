"""Text and frames as one sequence of tokens: embeddings, ids, rotary positions, and what layers add to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from stc_lab.types import VisualTokens


@dataclass(frozen=True)
class Text:
    """Words. Neighbouring texts are tokenized as one string; ``ids`` given in place of a string stay as they are."""

    text: str = ""
    ids: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Clip:
    """Frames that stand side by side, each perhaps pruned; ``continues``: they go on with the clip before them."""

    frames: tuple[VisualTokens, ...]
    continues: bool = False

    @property
    def num_tokens(self) -> int:
        """Tokens that are left."""
        return sum(frame.num_tokens for frame in self.frames)

    @property
    def tokens(self) -> Tensor:
        """Embeddings [T, H]."""
        return torch.cat([frame.tokens for frame in self.frames])

    def shape_only(self) -> Clip:
        """The same without embeddings: enough to place its tokens."""
        bare = [
            replace(
                frame,
                tokens=frame.tokens.new_empty(frame.num_tokens, 0),
                positions=frame.positions.cpu(),
                per_layer=None,
                features=None,
                views={},
            )
            for frame in self.frames
        ]
        return Clip(tuple(bare), self.continues)


@dataclass(frozen=True)
class Embedded:
    """Embeddings [T, H] that are neither words nor visual tokens, such as a learned end of a video."""

    tokens: Tensor


Segment = Text | Clip | Embedded


@dataclass(frozen=True)
class Cursor:
    """Where the next token stands. ``clip_start`` and ``clip_frames``: of the clip that may be continued."""

    position: float = 0.0
    clip_start: float = 0.0
    clip_frames: int = 0
    clip_last: float = 0.0


class Axes(Protocol):
    """How a model with rotary positions on three axes places its tokens."""

    def text(self, cursor: Cursor, num_tokens: int) -> tuple[Tensor, Cursor]:
        """Positions [3, T] of text, and where the next token stands."""
        ...

    def clip(self, cursor: Cursor, clip: Clip) -> tuple[Tensor, Cursor]:
        """Positions [3, T] of what is left of a clip, and where the next token stands."""
        ...


@dataclass(frozen=True)
class TimeRowColumn:
    """Positions of Qwen2-VL and its successors (arXiv:2409.12191, section 2.1).

    ``time_step``: positions between two temporal patches. ``is_flat``: clips are placed one token after the other, as
    if they were text, without rows and columns.

    Pruned tokens keep their places empty, and the text after a clip stands where it stood without pruning: after the
    furthest position of the full clip on any axis.
    """

    time_step: float = 1.0
    is_flat: bool = False

    def text(self, cursor: Cursor, num_tokens: int) -> tuple[Tensor, Cursor]:
        # Text stands at the same position on all axes.
        positions = torch.arange(num_tokens, dtype=torch.double) + cursor.position
        return positions.expand(3, -1), Cursor(cursor.position + num_tokens)

    def clip(self, cursor: Cursor, clip: Clip) -> tuple[Tensor, Cursor]:
        if self.is_flat:
            return self._flat(cursor, clip)
        # Section 2.1: a clip starts behind all before it, or goes on where its first part began.
        first = cursor.clip_frames if clip.continues else 0
        start = cursor.clip_start if clip.continues and first else cursor.position
        # Frame i of the clip stands at (i * time_step, row, column) from the start of the clip.
        parts = [self._cube(first + index, frame) for index, frame in enumerate(clip.frames)]
        num_frames = first + len(clip.frames)
        # What follows stands behind the furthest position on any axis, of the unpruned clip.
        sides = [side - 1 for frame in clip.frames for side in frame.grid]
        last = max(cursor.clip_last if first else 0.0, (num_frames - 1) * self.time_step, *sides)
        return torch.cat(parts, dim=1) + start, Cursor(start + last + 1, start, num_frames, last)

    def _cube(self, index: int, frame: VisualTokens) -> Tensor:
        positions, columns = frame.positions.cpu(), frame.grid[1]
        time = torch.full_like(positions, index, dtype=torch.double) * self.time_step
        return torch.stack((time, positions // columns, positions % columns)).double()

    def _flat(self, cursor: Cursor, clip: Clip) -> tuple[Tensor, Cursor]:
        parts, offset = [], cursor.position
        for frame in clip.frames:
            parts.append(frame.positions.cpu().double() + offset)
            # Pruned tokens leave their places empty.
            offset += frame.num_full
        return torch.cat(parts).expand(3, -1), Cursor(offset)


@dataclass(frozen=True)
class TokenSequence:
    """A sequence as a decoder reads it.

    ``embeds`` [T, H]; ``ids``: token ids, with a placeholder for what is no word; ``positions`` [3, T] on the CPU,
    ``None`` for a model whose tokens simply count on; ``cursor``: where the next token stands; ``visual`` [V]: indices
    of visual tokens; ``per_layer`` [E, V, H]: what the first layers add to these.
    """

    embeds: Tensor
    ids: list[int]
    positions: Tensor | None
    cursor: Cursor
    visual: Tensor
    per_layer: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)


def sequence(
    segments: Sequence[Segment],
    embed: Callable[[Sequence[int]], Tensor],
    token_ids: Callable[[str], list[int]],
    placeholder_id: int = -1,
    axes: Axes | None = None,
    cursor: Cursor | None = None,
) -> TokenSequence:
    """``segments`` as tokens, placed by ``axes`` from ``cursor`` on; empty texts and clips are left out."""
    cursor = cursor or Cursor()
    embeds, ids, placed, visual, extras = [], [], [], [], []
    for segment in joined(segments):
        words: Sequence[int] = ()
        if isinstance(segment, Text):
            words = token_ids(segment.text) if segment.ids is None else segment.ids
        count = len(words) if isinstance(segment, Text) else len(segment.tokens)
        if not count:
            continue
        # 1. Embeddings: of words by the model, of frames as the projector made them.
        embeds.append(embed(words) if isinstance(segment, Text) else segment.tokens)
        if isinstance(segment, Clip):
            # 2. Which of them are visual, and what the first layers add to these.
            visual.append(torch.arange(len(ids), len(ids) + count))
            extras += [frame.per_layer for frame in segment.frames if frame.num_tokens]
        # 3. Positions.
        if axes is not None:
            place = axes.clip(cursor, segment) if isinstance(segment, Clip) else axes.text(cursor, count)
            placed.append(place[0])
            cursor = place[1]
        # 4. Ids, for penalties on repetition and for the record.
        ids += words if isinstance(segment, Text) else [placeholder_id] * count
    has_extras = any(extra is not None for extra in extras)
    return TokenSequence(
        torch.cat(embeds) if embeds else embed([]),
        ids,
        torch.cat(placed, dim=1) if placed else None,
        cursor,
        torch.cat(visual) if visual else torch.empty(0, dtype=torch.long),
        torch.cat(extras, dim=1) if has_extras else None,
    )


def joined(segments: Sequence[Segment]) -> Iterator[Segment]:
    """Neighbouring strings as one, since a tokenizer may join what meets at their border."""
    text = ""
    for segment in segments:
        if isinstance(segment, Text) and segment.ids is None:
            text += segment.text
            continue
        if text:
            yield Text(text)
            text = ""
        yield segment
    if text:
        yield Text(text)

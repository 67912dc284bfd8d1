"""The kept sequence as spans, in step with a cache from which they are removed and in which they are moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stc_lab.backbones.qwen_vl.layout import Axes, Clip
from stc_lab.backbones.qwen_vl.memory import Cost
from stc_lab.language.kv.replaced import ReplacedStore
from stc_lab.measure.flops import decoder_flops

if TYPE_CHECKING:
    from stc_lab.backbones.qwen_vl.backbone import QwenVL

START = -1
"""Round of what stands before the first round."""


@dataclass
class Span:
    """Tokens that belong together: ``kind`` says what they are, ``round`` of which turn.

    ``clip`` is the geometry of visual tokens. ``embeds`` [T, H]: theirs, until the decoder has read them. ``first``:
    where the span began when the sequence was last numbered.
    """

    kind: str
    round: int
    ids: list[int]
    clip: Clip | None = None
    embeds: Tensor | None = None
    first: int = 0

    def part(self, start: int, stop: int) -> Span:
        """Tokens ``start .. stop - 1`` of a text span."""
        return replace(self, ids=self.ids[start:stop], first=self.first + start)

    def continues(self, other: Span) -> bool:
        """Whether ``other`` and, right behind it, this one are text of the same kind and round."""
        is_text = self.clip is None and other.clip is None
        return is_text and (self.kind, self.round) == (other.kind, other.round)


@dataclass(frozen=True)
class Bookmark:
    """A point to which a scroll can be taken back as long as only text and clips were added."""

    spans: tuple[Span, ...]
    num_read: int
    next_position: float


@dataclass
class Scroll:
    """A sequence of which the decoder has read the first ``len(store)`` tokens.

    ``shrinks``: whenever spans were removed or moved, all tokens are placed anew, without gaps, from 0 on; otherwise
    tokens stay where they were first placed.
    """

    model: QwenVL
    axes: Axes
    shrinks: bool
    spans: list[Span] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = ReplacedStore(self.model.decoder.shape)
        self.positions = torch.empty(3, 0, dtype=torch.double)
        self._next = 0.0

    @property
    def ids(self) -> list[int]:
        """Token ids of the whole sequence, a placeholder for visual tokens."""
        return [token for span in self.spans for token in span.ids]

    @property
    def num_unread(self) -> int:
        """Tokens that the decoder has not read."""
        return sum(len(span.ids) for span in self.spans) - len(self.store)

    def numbered(self) -> list[Span]:
        """The spans, each with its place in the sequence."""
        first = 0
        for span in self.spans:
            span.first = first
            first += len(span.ids)
        return list(self.spans)

    def rearrange(self, spans: Sequence[Span]) -> None:
        """``spans``, made of those of :meth:`numbered`, become the sequence; what is not among them is forgotten."""
        order = torch.tensor([i for span in spans for i in range(span.first, span.first + len(span.ids))])
        read = order[order < len(self.store)]
        self.spans = _joined(spans)
        if torch.equal(read, torch.arange(len(self.store))):
            return
        self.store.keep(read)
        self.positions = self.positions[:, read]
        if self.shrinks:
            self.positions, self._next = self._placed(0, len(read), 0.0)

    def read(self) -> tuple[Tensor, Cost]:
        """The decoder reads the rest. Returns the logits [V] of the last token, and the cost."""
        decoder, num_read = self.model.decoder, len(self.store)
        embeds = torch.cat([self._embeds(span, start) for span, start in self._unread()])
        new, self._next = self._placed(num_read, num_read + len(embeds), self._next)
        self.positions = torch.cat((self.positions, new), dim=1)
        hidden = decoder(embeds, self.store, self.positions)
        for span in self.spans:
            span.embeds = None
        cost = Cost(len(embeds), num_read, decoder_flops(decoder.sizes, len(embeds), num_read, with_lm_head=1))
        return decoder.logits(hidden[-1]), cost

    def mark(self) -> Bookmark:
        """The present point."""
        spans = tuple(replace(span, ids=list(span.ids)) for span in self.spans)
        return Bookmark(spans, len(self.store), self._next)

    def rewind(self, mark: Bookmark) -> None:
        """Forget what was added since ``mark``."""
        self.spans, self._next = list(mark.spans), mark.next_position
        self.store.cut(mark.num_read)
        self.positions = self.positions[:, : mark.num_read]

    def _unread(self) -> list[tuple[Span, int]]:
        """Spans with unread tokens, and how many of their tokens have been read."""
        left, rest = len(self.store), []
        for span in self.spans:
            if left < len(span.ids):
                rest.append((span, max(0, left)))
            left -= len(span.ids)
        return rest

    def _embeds(self, span: Span, start: int) -> Tensor:
        return self.model.decoder.embed(span.ids[start:]) if span.embeds is None else span.embeds[start:]

    def _placed(self, start: int, stop: int, position: float) -> tuple[Tensor, float]:
        """Positions [3, stop - start] of those tokens of the sequence, and where the next one stands."""
        parts, index = [torch.empty(3, 0, dtype=torch.double)], 0
        for span in self.spans:
            first, last = max(start, index), min(stop, index + len(span.ids))
            index += len(span.ids)
            if first >= last:
                continue
            if span.clip is None:
                placed, position = self.axes.text(position, last - first)
            else:
                placed, position = self.axes.clip(position, span.clip)
            parts.append(placed)
        return torch.cat(parts, dim=1), position


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Text of one kind and round as one span: the previous text must not become hundreds of them."""
    joined: list[Span] = []
    for span in spans:
        if joined and span.continues(joined[-1]):
            joined[-1] = replace(joined[-1], ids=joined[-1].ids + span.ids)
        else:
            joined.append(span)
    return joined

"""What a decoder has read: segments go in, the logits after them come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from stc_lab.language.caches.base import KVStore
from stc_lab.language.decoder import TextDecoder
from stc_lab.language.sequence import Axes, Cursor, Segment, TokenSequence
from stc_lab.measure.flops import decoder_flops


class Reader(Protocol):
    """What a context needs of a model."""

    decoder: TextDecoder

    def sequence(
        self, segments: Sequence[Segment], cursor: Cursor | None = None, axes: Axes | None = None
    ) -> TokenSequence: ...


class ReadableContext(Protocol):
    """What a question is read into. ``ids``: of all tokens so far, ``num_visual`` of them visual; ``flops``: of all
    passes."""

    ids: list[int]
    num_visual: int
    flops: int

    def read(self, segments: Sequence[Segment]) -> Tensor:
        """Read on; returns the logits [V] after the last token."""
        ...


@dataclass(frozen=True)
class Mark:
    """A point to which a context can be taken back."""

    num_ids: int
    num_visual: int
    cursor: Cursor
    store: Any


class Context:
    """A sequence in a key-value store.

    ``ids``: of all tokens read, with a placeholder for those that are no words, ``num_visual`` of them visual;
    ``flops``: two per multiply-accumulate, of all passes. ``axes``: how tokens are placed, where not as the model says.
    ``counts_on``: the store itself knows where the next token stands (blocks put one after the other), so no positions
    are handed over.
    """

    def __init__(self, model: Reader, store: KVStore, counts_on: bool = False) -> None:
        self.store = store
        self.cursor = Cursor()
        self.ids: list[int] = []
        self.num_visual = 0
        self.flops = 0
        self.axes: Axes | None = None
        self._model = model
        self._counts_on = counts_on

    def read(self, segments: Sequence[Segment]) -> Tensor:
        """Read ``segments``; returns the logits [V] after the last token."""
        hidden = self.extend(segments, with_logits=True)
        return self._model.decoder.logits(hidden[-1])

    def extend(self, segments: Sequence[Segment], with_logits: bool = False) -> Tensor:
        """Read ``segments`` without asking what comes next; returns the states [T, H] after the final norm."""
        decoder, num_context = self._model.decoder, self.store.num_context
        sequence = self._model.sequence(segments, self.cursor, self.axes)
        positions = None if self._counts_on else sequence.positions
        if positions is not None:
            positions = positions.to(sequence.embeds.device)
        hidden = decoder(sequence.embeds, self.store, positions, per_layer=sequence.per_layer, visual=sequence.visual)
        self.cursor = sequence.cursor
        self.ids += sequence.ids
        self.num_visual += len(sequence.visual)
        self.flops += decoder_flops(decoder.sizes, len(sequence), num_context, with_lm_head=int(with_logits))
        return hidden

    def mark(self) -> Mark:
        """The present point."""
        return Mark(len(self.ids), self.num_visual, self.cursor, self.store.mark())

    def rewind(self, mark: Mark) -> None:
        """Forget what was read since ``mark``, which the store must be able to do."""
        self.store.rewind(mark.store)
        self.cursor, self.num_visual = mark.cursor, mark.num_visual
        del self.ids[mark.num_ids :]

"""What a decoder has read, and what it says then: segments go in, the logits after them come out, tokens are chosen."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from stc_lab.language.caches.base import KVStore
from stc_lab.language.decoder import TextDecoder
from stc_lab.language.sequence import Axes, Cursor, Segment, Text, TokenSequence
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
        # 1. Segments as embeddings and positions.
        sequence = self._model.sequence(segments, self.cursor, self.axes)
        positions = None if self._counts_on else sequence.positions
        if positions is not None:
            positions = positions.to(sequence.embeds.device)
        # 2. One pass, which the store remembers.
        hidden = decoder(sequence.embeds, self.store, positions, per_layer=sequence.per_layer, visual=sequence.visual)
        # 3. What was read, and what it cost.
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


@dataclass(frozen=True)
class SamplingParams:
    """How a token is chosen from logits. The defaults are neutral: plain greedy decoding.

    ``repetition_penalty``: divides positive and multiplies negative logits of tokens that occur already.
    ``temperature``: 0 is greedy. ``silence_threshold`` (``None``: off): ``silence_id`` is suppressed while its
    probability is at most that, plus ``silence_step`` per token generated.
    """

    repetition_penalty: float = 1.0
    temperature: float = 0.0
    silence_threshold: float | None = None
    silence_step: float = 0.0
    silence_id: int = -1

    def choose(self, logits: Tensor, occurred: Tensor | None, step: int, generator: torch.Generator | None) -> int:
        """Next token from ``logits`` [V]; ``occurred`` [V]: which tokens occur already; ``step``: tokens so far."""
        scores = logits.float()
        if self.repetition_penalty != 1.0:
            penalty = self.repetition_penalty
            penalized = torch.where(scores < 0, scores * penalty, scores / penalty)
            scores = torch.where(occurred, penalized, scores)
        if self.silence_threshold is not None:
            scores = self._unless_sure(scores, step)
        if self.temperature == 0.0:
            return int(scores.argmax())
        odds = (scores / self.temperature).softmax(-1).cpu()
        return int(torch.multinomial(odds, 1, generator=generator))

    def _unless_sure(self, scores: Tensor, step: int) -> Tensor:
        threshold = self.silence_threshold + self.silence_step * step
        if scores.softmax(-1)[self.silence_id] <= threshold:
            scores = scores.clone()
            scores[self.silence_id] = -torch.inf
        return scores


@dataclass
class Generated:
    """Generated tokens. ``ids`` holds the stop token as well, where one ended it (``is_ended``).

    ``first_logits``, ``last_logits`` [V]: raw ones from which the first and the last token were taken;
    ``num_steps``: decoder passes it took; the last token has not been read by the decoder.
    """

    ids: list[int] = field(default_factory=list)
    is_ended: bool = False
    first_logits: Tensor | None = None
    last_logits: Tensor | None = None
    num_steps: int = 0

    @property
    def text_ids(self) -> list[int]:
        """The tokens without the one that ended them."""
        return self.ids[:-1] if self.is_ended else self.ids


def generate(
    context: ReadableContext,
    logits: Tensor,
    max_new_tokens: int,
    stop_ids: Collection[int],
    sampling: SamplingParams | None = None,
    generator: torch.Generator | None = None,
) -> Generated:
    """Tokens after a prompt whose last token has ``logits`` [V], up to and with a stop token; ``context`` reads on."""
    sampling = sampling or SamplingParams()
    # 1. Words that were read or said count as repetitions; placeholders of visual tokens are no words.
    occurred = None
    if sampling.repetition_penalty != 1.0:
        occurred = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
        occurred[[token for token in context.ids if token >= 0]] = True
    generated = Generated(first_logits=logits)
    while True:
        generated.last_logits = logits
        # 2. The next token; a stop token ends the answer and is not read.
        token = sampling.choose(logits, occurred, len(generated.ids), generator)
        generated.ids.append(token)
        generated.is_ended = token in stop_ids
        if generated.is_ended or len(generated.ids) == max_new_tokens:
            return generated
        if occurred is not None:
            occurred[token] = True
        # 3. Read it, unless it is the last one that is allowed.
        logits = context.read([Text(ids=(token,))])
        generated.num_steps += 1

"""From logits to words: repetition penalty, the threshold on falling silent, greedy or sampled."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Voice:
    """How tokens are chosen. Values in brackets are the neutral ones.

    ``repetition_penalty`` [1]: divides positive and multiplies negative logits of tokens that occur already.
    ``silence_threshold`` [``None``]: ``silence_id`` is suppressed while its probability is at most that, plus
    ``silence_step`` per token said. ``temperature`` [0]: 0 is greedy.
    """

    repetition_penalty: float = 1.0
    temperature: float = 0.0
    silence_threshold: float | None = None
    silence_step: float = 0.0
    silence_id: int = -1

    def choose(self, logits: Tensor, seen: Tensor, step: int, generator: torch.Generator | None) -> int:
        """Next token from ``logits`` [V]; ``seen`` [V]: which tokens occur already; ``step``: tokens said so far."""
        scores = logits.float()
        if self.repetition_penalty != 1.0:
            penalty = self.repetition_penalty
            scores = torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)
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
class Spoken:
    """Tokens said, the stop token included; raw logits [V] of the first and the last of them.

    ``num_steps``: decoder passes it took; the last token has not been read by the decoder.
    """

    ids: list[int] = field(default_factory=list)
    first_logits: Tensor | None = None
    last_logits: Tensor | None = None
    num_steps: int = 0


def speak(
    voice: Voice,
    logits: Tensor,
    seen: Tensor,
    read: Callable[[int], Tensor],
    max_new_tokens: int,
    stop_ids: Collection[int],
    generator: torch.Generator | None = None,
) -> Spoken:
    """Tokens after a prompt whose last token has ``logits`` [V], up to and with a stop token.

    ``read`` runs the decoder on a token and returns the logits after it; ``seen`` is marked as tokens are read.
    """
    spoken = Spoken(first_logits=logits)
    while True:
        spoken.last_logits = logits
        token = voice.choose(logits, seen, len(spoken.ids), generator)
        spoken.ids.append(token)
        if token in stop_ids or len(spoken.ids) == max_new_tokens:
            return spoken
        seen[token] = True
        logits = read(token)
        spoken.num_steps += 1

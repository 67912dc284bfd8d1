"""The decoding loop: greedy or sampled tokens after a prompt, with repetition penalty and a threshold on silence."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stc_lab.language.context import ReadableContext
from stc_lab.language.sequence import Text


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
    occurred = None
    if sampling.repetition_penalty != 1.0:
        occurred = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
        occurred[[token for token in context.ids if token >= 0]] = True
    generated = Generated(first_logits=logits)
    while True:
        generated.last_logits = logits
        token = sampling.choose(logits, occurred, len(generated.ids), generator)
        generated.ids.append(token)
        generated.is_ended = token in stop_ids
        if generated.is_ended or len(generated.ids) == max_new_tokens:
            return generated
        if occurred is not None:
            occurred[token] = True
        logits = context.read([Text(ids=(token,))])
        generated.num_steps += 1

"""How like the uncompressed run a compressed one is, without labels: features of frames, logits of answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import kl_div

from stc_lab.session import StreamSession
from stc_lab.types import Answer, FrameReport, Question

DIGITS = 6


def feature_fidelity(features: Tensor, reference: Tensor) -> dict[str, float]:
    """Cosine of each of a frame's tokens [T, C] to the same token of the uncompressed tower.

    ``feature_cosine``: mean over the tokens; ``worst_token_cosine``: the lowest. Equal features give exactly 1.
    """
    one, other = features.float(), reference.float()
    dot = (one * other).sum(-1)
    # One root of the product, not a product of roots: for equal tokens it is exactly the dot product.
    scale = ((one * one).sum(-1) * (other * other).sum(-1)).sqrt()
    are_equal = (one == other).all(-1)
    cosine = torch.where(are_equal, 1.0, dot / torch.where(scale > 0, scale, 1.0))
    mean, worst = torch.stack((cosine.mean(), cosine.min())).tolist()
    return {"feature_cosine": round(mean, DIGITS), "worst_token_cosine": round(worst, DIGITS)}


def answer_fidelity(answer: Answer, reference: Answer) -> dict[str, Any]:
    """The logits of an answer against those of the uncompressed run for the same question.

    ``kl_divergence``: KL(reference || answer) in nats; ``top1_agrees``: whether both find the same choice most likely.
    ``over`` says what the distributions are over: ``choices`` (letters of the options, or the fixed choices of an
    answer reader) where the answer has logits of those, else ``vocabulary`` for the first token of the answer.
    """
    has_choices = answer.letter_logits is not None
    mine, theirs = (_logits(one, has_choices) for one in (answer, reference))
    # KL(reference || answer): what it costs in nats to expect this answer where the reference is the truth.
    kl = kl_div(mine.log_softmax(-1), theirs.log_softmax(-1), reduction="sum", log_target=True).item()
    return {
        "kl_divergence": round(max(0.0, kl), 9),
        "top1_agrees": bool(mine.argmax() == theirs.argmax()),
        "over": "choices" if has_choices else "vocabulary",
    }


def _logits(answer: Answer, of_choices: bool) -> Tensor:
    """In double precision on the CPU: a difference of two runs can be small."""
    if of_choices:
        return torch.tensor(list(answer.letter_logits.values()), dtype=torch.float64)
    return answer.first_logits.cpu().double()


class FidelitySession:
    """A session with an uncompressed one beside it, which is what it is compared with.

    Reports, answers and sizes are those of ``measured``; reports and answers also say their ``fidelity``.
    ``reference`` is shown the same frames and asked the same questions, each time after ``measured`` is through.
    Nothing of it enters a time of ``measured``: it has a timer of its own, and runs inside ``exclude()``, by which the
    caller leaves it out of wall times. Features wait here for frames that wait for a pruner's window.
    """

    def __init__(
        self,
        measured: StreamSession,
        reference: StreamSession,
        exclude: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._measured = measured
        self._reference = reference
        self._exclude = exclude
        self._features: deque[Tensor] = deque()
        measured.shows_features = reference.shows_features = True

    def push(self, frames: Sequence[np.ndarray], timestamps_s: Sequence[float]) -> list[FrameReport]:
        reports = self._measured.push(frames, timestamps_s)
        with self._exclude():
            self._compare(reports, self._reference.push(frames, timestamps_s))
        return reports

    def flush(self) -> list[FrameReport]:
        reports = self._measured.flush()
        with self._exclude():
            self._compare(reports, self._reference.flush())
        return reports

    def ask(self, question: Question) -> Answer:
        answer = self._measured.ask(question)
        with self._exclude():
            answer.fidelity = answer_fidelity(answer, self._reference.ask(question))
        return answer

    def stats(self) -> dict[str, int]:
        """Sizes of the measured session alone."""
        return self._measured.stats()

    def close(self) -> None:
        """Free both."""
        self._features.clear()
        self._measured.close()
        self._reference.close()

    def _compare(self, reports: Sequence[FrameReport], references: Sequence[FrameReport]) -> None:
        """Reports come in time order, one per frame from each session, those of the reference first or at once."""
        self._features.extend(report.features for report in references)
        assert len(reports) <= len(self._features), "the uncompressed session waits for no window"
        # Frames leave the pruner's window in the order in which they came, so the oldest features are theirs.
        for report in reports:
            report.fidelity = feature_fidelity(report.features, self._features.popleft())
            report.features = None

"""How like the uncompressed run a compressed one is, without labels: features of frames, logits of answers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from stc_lab.types import Answer

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

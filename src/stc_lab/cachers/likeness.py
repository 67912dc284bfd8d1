"""How like its reference a token is: what is compared, and by which measure."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Feature = Literal["key", "value", "hidden"]
Metric = Literal["cosine", "l1", "l2", "dot"]
FEATURES: tuple[str, ...] = get_args(Feature)
METRICS: tuple[str, ...] = get_args(Metric)


def likeness(metric: Metric, current: Tensor, reference: Tensor, reference_length: Tensor) -> Tensor:
    """Per token [F, T], in float32 or better; higher is more alike, distances are negated.

    ``current`` [F, T, C], all channels together; ``reference`` [T, C] with its Euclidean ``reference_length`` [T].
    """
    current, reference = precise(current), precise(reference)
    if metric == "l1":
        return -(current - reference).abs().sum(-1)
    if metric == "l2":
        return -torch.linalg.vector_norm(current - reference, dim=-1)
    product = torch.linalg.vecdot(current, reference)
    return product if metric == "dot" else product / (length(current) * reference_length)


def length(x: Tensor) -> Tensor:
    """Euclidean length of each token of ``x`` [..., C], never zero."""
    return torch.linalg.vector_norm(x, dim=-1).clamp_min(1e-8)


def precise(x: Tensor) -> Tensor:
    """``x`` in float32 or better."""
    return x.to(torch.promote_types(x.dtype, torch.float32))

"""What a layer remembers of its reference frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from stc_lab.cachers.likeness import Feature, Metric, length, likeness, precise
from stc_lab.cachers.selection import Selection
from stc_lab.vision.tower import Block

Reuse = Literal["both", "attention", "mlp"]
REUSES: tuple[str, ...] = get_args(Reuse)


@dataclass(frozen=True)
class Rule:
    """How a layer is run against its reference.

    ``feature`` and ``metric``: what is compared, and how; ``reuse``: which output a token that is not recomputed
    takes from the reference; ``select``: from the likeness [F, T] to the tokens that are recomputed.
    """

    feature: Feature
    metric: Metric
    reuse: Reuse
    select: Callable[[Tensor], Selection]


@dataclass(frozen=True)
class LayerReference:
    """One layer of the reference frame, in tensors that keep nothing of a larger batch alive.

    ``compared`` [T, C]: the feature that later frames are compared with, ``length`` [T] its Euclidean length;
    ``update`` [T, C]: what a reused token adds to the residual stream: attention output, MLP output, or their sum,
    which is all that has to be kept of the two; ``key`` and ``value`` [T, C]: projections, all heads together, where
    attention mixes them because they are not what is compared.
    """

    compared: Tensor
    length: Tensor
    update: Tensor
    key: Tensor | None = None
    value: Tensor | None = None

    def likeness(self, metric: Metric, current: Tensor) -> Tensor:
        """Of ``current`` [F, T, C], token by token: [F, T], higher is more alike."""
        return likeness(metric, current, self.compared, self.length)


def run_reference(block: Block, x: Tensor, rule: Rule) -> tuple[Tensor, LayerReference]:
    """The whole layer for ``x`` [F, T, C], and what it remembers of the last frame."""
    normed = block.norm1(x)
    key, value = block.key(normed), block.value(normed)
    attended = block.project(block.attend(block.query(normed), key, value))
    after = x + attended
    fed = block.mlp(block.norm2(after))
    compared = x[-1].clone() if rule.feature == "hidden" else _last(key if rule.feature == "key" else value)
    mixes = rule.reuse != "mlp"
    reference = LayerReference(
        compared=compared,
        length=length(precise(compared)),
        update=_update(attended, fed, rule.reuse),
        key=_last(key) if mixes and rule.feature != "key" else None,
        value=_last(value) if mixes and rule.feature != "value" else None,
    )
    return after + fed, reference


def _update(attended: Tensor, fed: Tensor, reuse: Reuse) -> Tensor:
    """The part of what the layer added to the last frame that later frames reuse."""
    if reuse == "both":
        return attended[-1] + fed[-1]
    return _last(attended if reuse == "attention" else fed)


def _last(x: Tensor) -> Tensor:
    """Last frame of ``x`` [F, T, C]; a copy where it would keep other frames alive."""
    return x[0] if len(x) == 1 else x[-1].clone()

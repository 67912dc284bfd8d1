"""How many tokens each layer merges away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

Trend = Literal["constant", "decreasing", "increasing"]
TRENDS: tuple[str, ...] = get_args(Trend)
SLOPES = {"constant": 0, "decreasing": -1, "increasing": 1}


def released_schedule(r: int | Sequence[int], trend: Trend, num_layers: int) -> list[int]:
    """Tokens to merge per layer for the ``r`` of the released code.

    A list is taken as it is (zeros for layers beyond it). A number is merged in every layer; with another
    ``trend`` the layers go linearly from 2 ``r`` to 0 or from 0 to 2 ``r``, rounded down.
    """
    if not isinstance(r, int):
        return [*r, *[0] * (num_layers - len(r))][:num_layers]
    first = r * (1 - SLOPES[trend])
    step = (2 * r - 2 * first) / max(1, num_layers - 1)
    return [int(first + step * layer) for layer in range(num_layers)]


def exact_schedule(num_patches: int, num_left: int, trend: Trend, num_layers: int) -> list[int]:
    """Tokens to merge per layer so that exactly ``num_left`` of ``num_patches`` patches leave the last one.

    The layers follow ``trend`` as far as it goes: a layer merges at most half of its patches, so where the trend
    would leave too much for the last layers, earlier ones merge more. Where even halving in every layer does not
    reach ``num_left``, the schedule comes as near as it can. Raises ``ValueError`` for more than there are.
    """
    if num_left > num_patches:
        raise ValueError(f"{num_left} tokens are to be left of a frame that has {num_patches} patches")
    num_left = max(num_left, fewest(num_patches, num_layers))
    weights = [1 + SLOPES[trend] * (2 * layer + 1 - num_layers) / num_layers for layer in range(num_layers)]
    schedule, patches, progress = [], num_patches, 0.0
    for layer, weight in enumerate(weights):
        progress += weight / num_layers
        wanted = num_patches - round((num_patches - num_left) * progress)
        reachable = num_left * 2 ** (num_layers - 1 - layer)
        after = max(min(wanted, reachable), fewest(patches, 1), num_left)
        schedule.append(patches - after)
        patches = after
    return schedule


def fewest(num_patches: int, num_layers: int) -> int:
    """Patches left when every layer merges as many as it can, half of them rounded down."""
    for _ in range(num_layers):
        num_patches -= num_patches // 2
    return num_patches

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
    would leave too much for the last layers, earlier ones merge more. Raises ``ValueError`` where even halving in
    every layer does not reach ``num_left``.
    """
    if not fewest(num_patches, num_layers) <= num_left <= num_patches:
        raise ValueError(
            f"{num_left} of {num_patches} tokens cannot be reached: {num_layers} layers that merge at most half "
            f"leave {fewest(num_patches, num_layers)} to {num_patches}"
        )
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

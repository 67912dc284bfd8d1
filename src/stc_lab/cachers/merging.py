"""Bipartite soft matching of ToMe: which tokens of a frame become one, what is carried along, and how many merge where.

ToMe (arXiv 2210.09461), section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stc_lab.types import precise

Trend = Literal["constant", "decreasing", "increasing"]
TRENDS: tuple[str, ...] = get_args(Trend)
SLOPES = {"constant": 0, "decreasing": -1, "increasing": 1}


@dataclass(frozen=True)
class Merge:
    """One merging step of F frames with T tokens each, of which r end in another.

    ``kept`` [F, K]: even positions that stay, in output order; ``merged`` [F, r]: even positions that go;
    ``targets`` [F, r]: the odd position (counted among the odd ones) that each goes into. The output holds the kept
    tokens, then all odd ones: T - r.
    """

    kept: Tensor
    merged: Tensor
    targets: Tensor

    def apply(self, x: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Size-weighted means of ``x`` [F, T, C], and the ``sizes`` [F, T] added up."""
        weighted = self._sum(x * sizes.unsqueeze(-1).to(x.dtype))
        total = self._sum(sizes.unsqueeze(-1))
        return weighted / total.to(x.dtype), total.squeeze(-1)

    def follow(self, groups: Tensor) -> Tensor:
        """``groups`` [F, T0] of original tokens, as positions before this step, to positions after it."""
        num_kept, num_tokens = self.kept.shape[1], self.kept.shape[1] + self.merged.shape[1]
        # Where each even position ends: among the kept ones, or behind them in the odd one it goes into.
        places = torch.empty(len(groups), num_tokens, dtype=torch.long, device=groups.device)
        stays = torch.arange(num_kept, device=groups.device).expand_as(self.kept)
        places.scatter_(1, torch.div(self.kept, 2, rounding_mode="floor"), stays)
        places.scatter_(1, torch.div(self.merged, 2, rounding_mode="floor"), self.targets + num_kept)
        # Odd positions all stay, behind the kept even ones.
        half = torch.div(groups, 2, rounding_mode="floor")
        return torch.where(groups % 2 == 0, places.gather(1, half.clamp_max(num_tokens - 1)), half + num_kept)

    def _sum(self, x: Tensor) -> Tensor:
        """Sums over what becomes one: [F, T, C] to [F, T - r, C]."""
        width = x.shape[-1]
        kept, merged = (x.gather(1, _wide(places, width)) for places in (self.kept, self.merged))
        # A GPU adds by index in any order, and later layers merge by ranks of such sums.
        add = add_by_product if x.is_cuda else add_by_index
        return torch.cat([kept, add(x[:, 1::2], self.targets, merged)], 1)


def add_by_index(x: Tensor, targets: Tensor, added: Tensor) -> Tensor:
    """``x`` [F, K, C] with each row of ``added`` [F, r, C] added to the row that ``targets`` [F, r] names."""
    return x.scatter_add(1, _wide(targets, x.shape[-1]), added)


def add_by_product(x: Tensor, targets: Tensor, added: Tensor) -> Tensor:
    """``add_by_index`` as a product, whose order of addition is the same in every run."""
    rows = torch.arange(x.shape[1], device=x.device)
    return x + (targets[:, None, :] == rows[:, None]).to(x) @ added


def match(metric: Tensor, num_merged: int, has_class_token: bool) -> Merge:
    """Pairs for one step (ToMe, arXiv 2210.09461, section 3, in the order of the released code).

    ``metric`` [F, T, D]. Tokens at even positions look for the most cosine-similar token at an odd one; the
    ``num_merged`` most similar pairs merge, at most half of the tokens. A class token (position 0) never merges,
    and with one the others stay in ascending order, otherwise by descending similarity.
    """
    # 1. Two sets: tokens at even positions, and those at odd ones.
    num_even = (metric.shape[1] + 1) // 2
    num_merged = min(num_merged, (metric.shape[1] - has_class_token) // 2)
    # 2. From each even token an edge to the most similar odd one.
    unit = normalize(metric, dim=-1)
    scores = unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)
    best, targets = scores.max(-1)
    if has_class_token:
        best[:, 0] = -torch.inf
    # 3. The most similar edges merge; the other even tokens stay.
    order = best.argsort(dim=1, descending=True, stable=True)
    merged, kept = order.split([num_merged, num_even - num_merged], 1)
    if has_class_token:
        kept = kept.sort(dim=1).values
    return Merge(kept * 2, merged * 2, targets.gather(1, merged))


def _wide(indices: Tensor, width: int) -> Tensor:
    return indices.unsqueeze(-1).expand(-1, -1, width)


# How many tokens each layer merges away


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
        # What the trend would leave, what halving can still bring down to the goal, and what this layer can reach.
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


# To an exact number of tokens, sizes forgotten afterwards (as StreamForest, arXiv:2509.24871, merges its memory)


def merge_tokens(tokens: Tensor, target: int, num_heads: int) -> Tensor:
    """``tokens`` [B, T, C] -> [B, target, C], each an average of the tokens merged into it.

    Tokens at even places are matched with those at odd places by the cosine of their mean over ``num_heads`` groups
    of channels, and the best matches are merged, in as few rounds as halving allows. The result is not in reading
    order: unmerged even tokens, the worst match last, then the odd ones. Raises ``ValueError`` if T < target.
    """
    if tokens.shape[1] < target:
        raise ValueError(f"{tokens.shape[1]} tokens cannot be merged to {target}")
    merged = precise(tokens)
    sizes = torch.ones_like(merged[..., 0])
    for num_merged in _rounds(tokens.shape[1], target):
        merged, sizes = match(_metric(merged, num_heads), num_merged, has_class_token=False).apply(merged, sizes)
    return merged.to(tokens.dtype)


def mean_match(tokens: Tensor, num_best: int, num_heads: int) -> float:
    """Mean cosine of the ``num_best`` best matches that merging ``tokens`` [T, C] would start with."""
    unit = normalize(_metric(tokens[None], num_heads), dim=-1)
    best = (unit[:, ::2] @ unit[:, 1::2].mT).amax(dim=-1)
    return best[0].topk(num_best).values.mean().item()


def merge_flops(num_tokens: int, target: int, width: int, num_heads: int) -> int:
    """FLOPs of the comparisons in ``merge_tokens`` for one frame: even against odd tokens in every round."""
    flops = 0
    for num_merged in _rounds(num_tokens, target):
        flops += 2 * ((num_tokens + 1) // 2) * (num_tokens // 2) * (width // num_heads)
        num_tokens -= num_merged
    return flops


def _rounds(num_tokens: int, target: int) -> Iterator[int]:
    """How many tokens are merged away in each round: half, as long as more than that must go."""
    while num_tokens > target:
        num_merged = min(num_tokens - target, num_tokens // 2)
        yield num_merged
        num_tokens -= num_merged


def _metric(tokens: Tensor, num_heads: int) -> Tensor:
    """What tokens [B, T, C] are compared by: the mean over the heads, at least float32."""
    return precise(tokens).unflatten(-1, (num_heads, -1)).mean(dim=-2)

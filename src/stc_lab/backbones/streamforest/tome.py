"""Token merging (ToMe, arXiv:2210.09461) as StreamForest uses it: to an exact number, sizes forgotten afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize


def merge_tokens(tokens: Tensor, target: int, num_heads: int) -> Tensor:
    """``tokens`` [B, T, C] -> [B, target, C], each an average of the tokens merged into it.

    Tokens at even places are matched with those at odd places by the cosine of their mean over ``num_heads`` groups
    of channels, and the best matches are merged, in as few rounds as halving allows. The result is not in reading
    order: unmerged even tokens, the worst match last, then the odd ones. Raises ``ValueError`` if T < target.
    """
    if tokens.shape[1] < target:
        raise ValueError(f"{tokens.shape[1]} tokens cannot be merged to {target}")
    precise = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    sizes = torch.ones_like(precise[..., :1])
    for num_tokens, num_merged in _rounds(tokens.shape[1], target):
        assert precise.shape[1] == num_tokens
        precise, sizes = _merge_round(precise, sizes, num_merged, num_heads)
    return precise.to(tokens.dtype)


def mean_match(tokens: Tensor, num_best: int, num_heads: int) -> float:
    """Mean cosine of the ``num_best`` best matches that merging ``tokens`` [T, C] would start with."""
    best, _ = _matches(tokens[None], num_heads)
    return best[0].topk(num_best).values.mean().item()


def merge_flops(num_tokens: int, target: int, width: int, num_heads: int) -> int:
    """FLOPs of the comparisons in :func:`merge_tokens` for one frame: even against odd tokens in every round."""
    return sum(2 * ((n + 1) // 2) * (n // 2) * (width // num_heads) for n, _ in _rounds(num_tokens, target))


def _rounds(num_tokens: int, target: int) -> Iterator[tuple[int, int]]:
    """Tokens before each round and how many are merged away in it: half, as long as more than that must go."""
    while num_tokens > target:
        num_merged = min(num_tokens - target, num_tokens // 2)
        yield num_tokens, num_merged
        num_tokens -= num_merged


def _matches(tokens: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    """Per even token of [B, T, C]: cosine to its best odd token, and which one that is."""
    metric = tokens.to(torch.promote_types(tokens.dtype, torch.float32)).unflatten(-1, (num_heads, -1)).mean(dim=-2)
    metric = normalize(metric, dim=-1)
    return (metric[:, ::2] @ metric[:, 1::2].mT).max(dim=-1)


def _merge_round(tokens: Tensor, sizes: Tensor, num_merged: int, num_heads: int) -> tuple[Tensor, Tensor]:
    best, partner = _matches(tokens, num_heads)
    order = best.argsort(dim=-1, descending=True, stable=True)[..., None]
    merged, unmerged = order[:, :num_merged], order[:, num_merged:]
    into = partner[..., None].gather(1, merged)

    def summed(values: Tensor) -> Tensor:
        evens, odds, width = values[:, ::2], values[:, 1::2], values.shape[-1]
        added = evens.gather(1, merged.expand(-1, -1, width))
        odds = odds.scatter_add(1, into.expand(-1, -1, width), added)
        return torch.cat((evens.gather(1, unmerged.expand(-1, -1, width)), odds), dim=1)

    new_sizes = summed(sizes)
    return summed(tokens * sizes) / new_sizes, new_sizes

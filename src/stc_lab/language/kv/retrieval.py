"""Which blocks a question needs: scores of the representative keys, averaged over chunks, top-k."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def block_scores(queries: Tensor, representatives: Tensor) -> Tensor:
    """Plain dot product of the mean question query with each block's key -> [N], float32.

    ``queries`` [T, Hq, d], un-rotated; ``representatives`` [N, Hkv * d]. Query heads that share a key head are
    summed first, which equals repeating the keys. Neither normalised nor scaled (ReKV, upstream).
    """
    mean = queries.float().mean(dim=0)
    num_groups = queries.shape[1] * queries.shape[2] // representatives.shape[1]
    return representatives @ mean.view(-1, num_groups, mean.shape[-1]).sum(dim=1).flatten()


def top_blocks(scores: Tensor, topk: int, chunk_size: int) -> list[int]:
    """Indices, ascending, of the blocks of the ``topk // chunk_size`` best chunks; all if there are at most ``topk``.

    A chunk is ``chunk_size`` consecutive blocks with their mean score; the last one may be short. Of equal
    chunks the earlier wins.
    """
    num_blocks = scores.shape[0]
    if num_blocks <= topk:
        return list(range(num_blocks))
    chunk_scores = torch.stack([chunk.mean() for chunk in scores.split(chunk_size)]) if chunk_size > 1 else scores
    best = chunk_scores.argsort(descending=True, stable=True)[: topk // chunk_size]
    chunks = sorted(best.tolist())
    return [i for c in chunks for i in range(c * chunk_size, min((c + 1) * chunk_size, num_blocks))]


def checked_indices(indices: Sequence[int], num_blocks: int) -> list[int]:
    """Block indices given from outside, ascending and without repeats; ``ValueError`` for one out of range."""
    wrong = [i for i in indices if not 0 <= i < num_blocks]
    if wrong:
        raise ValueError(f"block indices {wrong} are out of range: there are {num_blocks} blocks")
    return sorted(set(indices))

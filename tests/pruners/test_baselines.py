"""The baselines: random and uniform."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stc_lab.pruners import RandomPruner, UniformPruner
from stc_lab.pruners.even import even_grid


def kept(pruner, frames):
    return [frame.positions for frame in pruner.compress(frames, pruner.new_state())]


def test_random_is_fresh_in_every_frame_and_repeatable(frames):
    first, again, other = (kept(RandomPruner(budget=16, seed=seed), frames) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])


def test_random_reaches_every_token(make_frames):
    indices = torch.cat(kept(RandomPruner(budget=64), make_frames(num_frames=100)))
    assert len(indices.unique()) == 196


@pytest.mark.parametrize("grid", [(14, 14), (7, 20), (20, 7), (1, 9)], ids=str)
def test_even_grid_is_exact_for_every_budget(grid):
    for budget in range(1, grid[0] * grid[1] + 1):
        cells = even_grid(grid, budget)
        assert len(cells) == budget and (np.diff(cells) > 0).all()
        assert 0 <= cells[0] and cells[-1] < grid[0] * grid[1]


def test_even_grid_is_even():
    assert even_grid((4, 4), 4).tolist() == [5, 7, 13, 15]
    assert even_grid((3, 3), 1).tolist() == [4]
    rows = even_grid((14, 14), 64) // 14
    assert np.bincount(rows)[np.unique(rows)].tolist() == [8] * 8
    quadrants = [(even_grid((14, 14), 50) // 14 < 7).sum(), (even_grid((14, 14), 50) % 14 < 7).sum()]
    assert all(20 <= count <= 30 for count in quadrants)


def test_uniform_needs_full_frames(frames):
    pruner = UniformPruner(budget=4)
    with pytest.raises(ValueError, match="uniform needs full frames"):
        pruner.compress([frames[0].keep(torch.arange(50))], None)
    with pytest.raises(ValueError, match="no square frame"):
        pruner(torch.randn(8, 4))
    assert pruner(torch.randn(8, 4), grid=(2, 4)).num_tokens == 4

"""The baselines: random, uniform, downsample, recent, magnitude."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from stc_lab.pruners.base import even_grid, even_rows
from stc_lab.pruners.downsample import DownsamplePruner
from stc_lab.pruners.magnitude import MagnitudePruner
from stc_lab.pruners.random import RandomPruner
from stc_lab.pruners.recent import RecentPruner
from stc_lab.pruners.uniform import UniformPruner
from stc_lab.types import VisualTokens


def kept(pruner, frames):
    return [frame.positions for frame in pruner.compress(frames, pruner.new_state())]


def counts(pruner, frames):
    return [len(positions) for positions in kept(pruner, frames)]


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
        assert cells[0] >= 0 and cells[-1] < grid[0] * grid[1]


def test_even_grid_is_even():
    assert even_grid((4, 4), 4).tolist() == [5, 7, 13, 15]
    assert even_grid((3, 3), 1).tolist() == [4]
    rows = even_grid((14, 14), 64) // 14
    assert np.bincount(rows)[np.unique(rows)].tolist() == [8] * 8
    quadrants = [(even_grid((14, 14), 50) // 14 < 7).sum(), (even_grid((14, 14), 50) % 14 < 7).sum()]
    assert all(20 <= count <= 30 for count in quadrants)
    assert sorted(even_rows((14, 14), 98)) == [9] * 2 + [10] * 8


def test_uniform_needs_full_frames(frames):
    pruner = UniformPruner(budget=4)
    with pytest.raises(ValueError, match="uniform needs full frames"):
        pruner.compress([frames[0].keep(torch.arange(50))], None)
    with pytest.raises(ValueError, match="no square frame"):
        pruner(torch.randn(8, 4))
    assert pruner(torch.randn(8, 4), grid=(2, 4)).num_tokens == 4


def test_downsample_to_a_regular_grid_is_average_pooling(frames):
    pooled = DownsamplePruner(budget=49)(frames[0].tokens)
    expected = avg_pool2d(frames[0].tokens.T.unflatten(1, (14, 14)), 2).flatten(1).T
    torch.testing.assert_close(pooled.tokens, expected)
    assert (pooled.sizes == 4).all()


@pytest.mark.parametrize("budget", [1, 16, 33, 64, 98, 195])
def test_downsample_uses_every_token_once(frames, budget):
    """Parts have equal areas within a row and cover the frame, so weighted by area the mean of the frame stays."""
    pooled = DownsamplePruner(budget=budget)(frames[0].tokens)
    assert float(pooled.sizes.sum()) == pytest.approx(196, rel=1e-5)
    mean = (pooled.tokens * pooled.sizes[:, None]).sum(0) / 196
    torch.testing.assert_close(mean, frames[0].tokens.mean(0), atol=1e-5, rtol=1e-4)
    assert pooled.sizes.max() <= 1.6 * pooled.sizes.min()


def test_downsample_of_a_slope_is_the_slope():
    """Each part has the value at the middle of its area, as exactly as steps of one token can say."""
    rows, columns = torch.meshgrid(torch.arange(14.0), torch.arange(14.0), indexing="ij")
    pooled = DownsamplePruner(budget=64)(torch.stack([rows, columns], -1).flatten(0, 1))
    centres = (torch.arange(8) + 0.5) * 14 / 8 - 0.5
    torch.testing.assert_close(pooled.tokens.unflatten(0, (8, 8))[:, 3, 0], centres, atol=0.06, rtol=0)
    torch.testing.assert_close(pooled.tokens.unflatten(0, (8, 8))[2, :, 1], centres, atol=0.06, rtol=0)
    assert (pooled.tokens - torch.stack([pooled.positions // 14, pooled.positions % 14], 1)).abs().max() <= 0.75


def test_downsample_needs_full_frames(frames):
    with pytest.raises(ValueError, match="downsample needs full frames"):
        DownsamplePruner(budget=4).compress([frames[0].keep(torch.arange(50))], None)


def test_recent_keeps_the_last_frames_whole(make_frames):
    """16 waiting frames at 64 tokens pay for five whole frames and 44 tokens of a sixth."""
    assert counts(RecentPruner(budget=64), make_frames(num_frames=16)) == [0] * 10 + [44] + [196] * 5
    last = kept(RecentPruner(budget=64), make_frames(num_frames=16))[-1]
    assert torch.equal(last, torch.arange(196))


def test_recent_pays_for_the_frames_that_waited(frames):
    """A question after seven frames: their budget, for the newest of them."""
    assert counts(RecentPruner(budget=64), frames[:7]) == [0, 0, 0, 0, 56, 196, 196]
    assert counts(RecentPruner(budget=64, window_frames=4), frames) == [0, 0, 60, 196] * 2
    assert counts(RecentPruner(budget=64), frames[:1]) == [64]
    assert RecentPruner(budget=64).max_kept(196) == 196 and RecentPruner(budget=2).max_kept(196) == 32


def test_recent_looks_at_no_content(frames, make_frames):
    first, second = kept(RecentPruner(), frames), kept(RecentPruner(), make_frames(seed=4))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_magnitude_keeps_the_longest_or_the_shortest():
    tokens = torch.diag(torch.tensor([3.0, 1.0, 2.0, 5.0]))
    frame = [VisualTokens.full(tokens, (2, 2), 0.0)]
    assert kept(MagnitudePruner(budget=2), frame)[0].tolist() == [0, 3]
    assert kept(MagnitudePruner(budget=2, largest=False), frame)[0].tolist() == [1, 2]

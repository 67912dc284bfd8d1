"""Buffers, block pools and the choice of blocks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stc_lab.language.caches.base import TokenBuffer
from stc_lab.language.caches.retrieval import block_scores, checked_indices, top_blocks
from stc_lab.language.caches.windowed import BlockPool, HostMemory

CPU = torch.device("cpu")


def states(start: int, stop: int) -> Tensor:
    """Keys [T, 2, 3] that say which token they are."""
    return torch.arange(start, stop).float()[:, None, None].expand(-1, 2, 3).contiguous()


@pytest.mark.parametrize("keep", [None, 30, 700])
def test_buffer_returns_the_newest_tokens(keep: int | None) -> None:
    buffer, total = TokenBuffer(keep), 0
    for length in (5, 1, 196, 64, 64, 3, 500, 64, 7, 900, 1, 1):
        buffer.append(states(total, total + length))
        total += length
        wanted = min(total, (keep or total) + length)
        assert torch.equal(buffer.last(wanted), states(total - wanted, total).transpose(0, 1))


def test_bounded_buffer_stays_bounded() -> None:
    buffer = TokenBuffer(keep=1000)
    for frame in range(200):
        buffer.append(states(frame, frame + 50))
    assert buffer.reserved_bytes <= (1000 + 250 + 50) * 2 * 3 * 4


def test_buffer_forgets_dropped_tokens() -> None:
    buffer = TokenBuffer()
    buffer.append(states(0, 10))
    buffer.drop_last(4)
    buffer.append(states(20, 22))
    assert buffer.last(8)[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 20, 21]


@pytest.mark.parametrize("keep", [None, 30, 700])
def test_what_is_appended_aside_leaves_no_trace(keep: int | None) -> None:
    buffer, plain = TokenBuffer(keep), TokenBuffer(keep)
    total = 0
    for length in (5, 196, 64, 500, 64, 900, 1):
        for one in (buffer, plain):
            one.append(states(total, total + length))
        total += length
        buffer.pin()
        for aside in (300, 7, 2000):
            buffer.append(states(-aside, 0))
        buffer.unpin()
        wanted = min(total, keep or total)
        assert torch.equal(buffer.last(wanted), plain.last(wanted))


def new_pool(offload: bool, max_cached: int = 2) -> BlockPool:
    pool = BlockPool(max_cached, HostMemory(CPU) if offload else None)
    for block in range(6):
        pool.append(states(10 * block, 10 * block + 2 + block), -states(10 * block, 10 * block + 2 + block))
    return pool


@pytest.mark.parametrize("has_host", [False, True])
def test_pool_gives_back_blocks_in_the_order_asked(has_host: bool) -> None:
    pool = new_pool(has_host)
    before = pool.gather([1, 4])
    pool.offload()
    pool.append(states(90, 93), states(90, 93))
    after = pool.gather([1, 4])
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
    assert after[0][0, :, 0].tolist() == [10, 11, 12, 40, 41, 42, 43, 44, 45]
    assert pool.gather([6])[0][1, :, 2].tolist() == [90, 91, 92]
    assert pool.num_offloaded == 7
    assert pool.representatives[:, 0].tolist() == [0.5, 11, 21.5, 32, 42.5, 53, 91]


def test_pool_caches_the_most_recently_used_blocks() -> None:
    pool = new_pool(offload=True)
    pool.offload()
    for indices in ([0, 1], [1, 2], [1], [3]):
        pool.gather(indices)
    assert list(pool._cache) == [1, 3]
    assert len(pool.gather(range(6))[0][0]) == sum(2 + b for b in range(6))
    assert list(pool._cache) == [4, 5]
    rows = pool.representatives.numel()
    assert pool.device_bytes == 4 * (rows + 2 * 2 * 3 * (6 + 7))
    assert pool.host_bytes == 4 * 2 * 2 * 3 * sum(2 + b for b in range(6))


def test_no_cache_at_all() -> None:
    pool = new_pool(offload=True, max_cached=0)
    pool.offload()
    assert pool.gather([2, 5])[0].shape == (2, 4 + 7, 3)
    assert not pool._cache


def test_scores_equal_repeated_keys() -> None:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(4, 6, 8, generator=generator)
    keys = torch.randn(5, 2, 8, generator=generator)
    repeated = keys.repeat_interleave(3, dim=1).flatten(1)
    expected = repeated @ queries.mean(0).flatten()
    torch.testing.assert_close(block_scores(queries, keys.flatten(1)), expected)


def test_top_blocks() -> None:
    scores = torch.tensor([0.0, 5.0, 1.0, 4.0, 4.0, -1.0, 9.0])
    assert top_blocks(scores, topk=3, chunk_size=1) == [1, 3, 6]
    assert top_blocks(scores, topk=7, chunk_size=1) == list(range(7))
    assert top_blocks(scores, topk=4, chunk_size=2) == [0, 1, 6]
    assert top_blocks(scores, topk=3, chunk_size=3) == [6]


def test_given_indices_are_checked() -> None:
    assert checked_indices([4, 1, 4], 5) == [1, 4]
    with pytest.raises(ValueError, match=r"block indices \[5\] are out of range: there are 5 blocks"):
        checked_indices([0, 5], 5)

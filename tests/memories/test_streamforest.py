"""Window and forest: order, bounds, bytes, and where the default differs from the released code."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import yaml
from torch import Tensor

from stc_lab.backbones.streamforest.model import FramePositions
from stc_lab.cachers.merging import merge_flops, merge_tokens
from stc_lab.config import build, conf_dir
from stc_lab.memories.streamforest import EventForest, Forest, ForestSizes, prune_units, unit_pruner
from stc_lab.types import VisualTokens

SIZES = ForestSizes(
    now_tokens=16, short_frames=3, short_tokens=8, split_window=2, event_tokens=4, quota=20, mode="online"
)


def frames(number: int, seed: int = 0) -> Tensor:
    """Scenes of five frames each that change a little from frame to frame, [number, 16, 32]."""
    generator = torch.Generator().manual_seed(seed)
    scenes = torch.randn((number + 4) // 5, 16, 32, generator=generator).repeat_interleave(5, dim=0)[:number]
    return scenes + 0.3 * torch.randn(number, 16, 32, generator=generator)


def filled(sizes: ForestSizes, number: int) -> Forest:
    memory = Forest(sizes, num_heads=4)
    for frame in frames(number):
        memory.push(frame)
    return memory


def test_online_memory_is_bounded_and_its_bytes_follow_the_formula() -> None:
    memory, largest = Forest(SIZES, num_heads=4), 0
    for frame in frames(120):
        memory.push(frame)
        events = sum(event.size for event in memory.forest.events) * 4
        tokens = events + 8 * len(memory.window.short) + 16 * len(memory.window.now)
        assert memory.num_tokens == tokens <= SIZES.most_tokens() == 20 + 4 * 8 + 16
        assert memory.num_bytes == tokens * 32 * 4
        assert events <= SIZES.quota
        largest = max(largest, tokens)
    assert largest == SIZES.most_tokens()
    assert len(memory.window.similarities) == len(memory.window) - 1


def test_a_quota_below_one_event_leaves_one_event() -> None:
    memory = filled(replace(SIZES, quota=1), 60)
    assert len(memory.forest.events) == 1
    assert memory.num_tokens <= replace(SIZES, quota=1).most_tokens() == 8 + 4 * 8 + 16


def test_newest_frame_is_counted_where_now_is_merged() -> None:
    memory = filled(replace(SIZES, now_tokens=10), 7)
    assert memory.num_bytes == (memory.num_tokens + 16) * 32 * 4


def test_lazy_memory_grows_and_is_read_within_the_quota() -> None:
    memory = filled(replace(SIZES, mode="lazy"), 100)
    before = [event.tokens.clone() for event in memory.forest.events]
    view = memory.read()
    assert memory.forest.num_tokens == 4 * memory.forest.num_frames > SIZES.quota
    assert sum(len(event) for event in view.events) * 4 <= SIZES.quota and view.flops > 0
    after = [event.tokens for event in memory.forest.events]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(memory.read().tokens, view.tokens)


@pytest.mark.parametrize("mode", ["online", "lazy"])
def test_every_frame_is_somewhere_in_order(mode: str) -> None:
    memory = filled(replace(SIZES, mode=mode), 47)
    covered = [index for event in memory.forest.events for index in event.frames]
    assert covered == list(range(memory.forest.num_frames))
    assert memory.num_frames == 47 == len(covered) + len(memory.window)
    times = memory.read().times
    assert times == sorted(times) and times[-1] == 46


def test_time_of_a_merged_event_is_the_mean_of_its_frames() -> None:
    memory = filled(SIZES, 60)
    for event in memory.forest.events:
        assert event.time == pytest.approx(sum(event.frames) / len(event.frames))
    quirky = filled(replace(SIZES, upstream_quirks=True), 60)
    off = [event.time - sum(event.frames) / len(event.frames) for event in quirky.forest.events]
    assert max(map(abs, off)) > 0.1


def event(*kinds: int) -> Tensor:
    """One frame of four tokens of different kinds, [1, 4, 32]; kinds have nothing in common."""
    return torch.nn.functional.one_hot(torch.tensor([kinds]), 8).repeat(1, 1, 4).float()


def test_similar_old_and_rarely_merged_events_are_merged_first() -> None:
    forest = EventForest(replace(SIZES, quota=1000), num_heads=4)
    for kinds in ((0, 1, 2, 3), (4, 5, 6, 7), (5, 4, 7, 6), (0, 1, 2, 3), (1, 0, 3, 2)):
        forest.add(event(*kinds))
    assert forest.similarities == pytest.approx([0, 1, 0, 1])
    assert int(forest.penalties(newest=4).argmin()) == 1, "of the two alike pairs the older one"
    forest.merge(1)
    assert [list(event.frames) for event in forest.events] == [[0], [1, 2], [3], [4]]
    assert [event.num_leaves for event in forest.events] == [1, 2, 1, 1]
    assert forest.similarities == pytest.approx([0, 0, 1])
    assert int(forest.penalties(newest=4).argmin()) == 2
    frequent = EventForest(replace(SIZES, similarity_weight=0.0, time_weight=0.0), num_heads=4)
    frequent.events, frequent.similarities = forest.events, forest.similarities
    assert frequent.penalties(newest=4).tolist() == pytest.approx([0.4, 0.4, 0.4 * 2 / 3])


def test_merging_averages_by_size() -> None:
    tokens = frames(3)
    for target in (16, 11, 8, 5, 1):
        merged = merge_tokens(tokens, target, num_heads=4)
        assert merged.shape == (3, target, 32)
    torch.testing.assert_close(merge_tokens(tokens, 1, num_heads=4)[:, 0], tokens.mean(1))
    assert merge_flops(16, 16, 32, 4) == 0 < merge_flops(16, 8, 32, 4) < merge_flops(16, 5, 32, 4)
    with pytest.raises(ValueError, match="16 tokens cannot be merged to 17"):
        merge_tokens(tokens, 17, num_heads=4)


def test_official_sizes_bound_a_prompt_at_nine_thousand_tokens() -> None:
    assert ForestSizes().most_tokens() == 5120 + 25 * 128 + 729


def test_times_repeat_after_512_frames() -> None:
    positions, frame = FramePositions(32, 4), torch.zeros(1, 16, 32)
    assert torch.equal(positions(frame, 3), positions(frame, 515))
    assert not torch.equal(positions(frame, 3), positions(frame, 4))
    with pytest.raises(ValueError, match="mm_hidden_size=24"):
        FramePositions(24, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quota": 0}, "memory.quota=0: must be at least 1"),
        ({"merge_weight": -1.0}, "memory.merge_weight=-1.0: must be 0 or more"),
        ({"mode": "batch"}, "memory.mode=batch: must be one of online, lazy"),
        ({"event_tokens": 9}, "a frame only shrinks"),
    ],
)
def test_sizes_that_cannot_work(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SIZES, **changes)


@pytest.mark.parametrize("path", sorted((conf_dir() / "pruner").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_pruner_keeps_its_share_or_says_why_not(path) -> None:
    node = {key: 0 if str(value).startswith("${") else value for key, value in yaml.safe_load(path.read_text()).items()}
    pruner = build({**node, "budget": 4, "keep_ratio": None})
    if pruner.needs or pruner.uses_places:
        with pytest.raises(ValueError, match=f"pruner={path.stem} needs .* prunes its memory"):
            unit_pruner(pruner, SIZES)
        return
    units = frames(9).split([4, 4, 1])
    counts = (SIZES.event_tokens, SIZES.short_tokens, SIZES.now_tokens)
    groups = [
        [VisualTokens.full(frame[:size], (1, size), float(time)) for time, frame in enumerate(part)]
        for part, size in zip(units, counts, strict=True)
    ]
    kept, _ = prune_units(unit_pruner(pruner, SIZES), groups)
    assert sum(unit.num_tokens for unit in kept) == (64 if path.stem == "none" else 32)

"""What token merging promises, apart from upstream numbers."""

from __future__ import annotations

import pytest
import torch

from stc_lab.cachers import NoCacher, ToMeCacher
from stc_lab.cachers.merging import TRENDS, add_by_index, add_by_product, exact_schedule, fewest, match
from stc_lab.measure.flops import vision_flops

CLOSE = dict(atol=1e-5, rtol=1e-5)


def encode(cacher, tower, pixels):
    return cacher.encode(tower, pixels, cacher.new_state())


def num_left(trace):
    return len(trace.groups[-1].unique())


@pytest.mark.parametrize("trend", TRENDS)
@pytest.mark.parametrize(("num_patches", "num_layers"), [(729, 26), (729, 3), (49, 3), (576, 23)])
def test_schedules_are_exact_and_possible(trend, num_patches, num_layers):
    lowest = fewest(num_patches, num_layers)
    for target in {lowest, lowest + 1, num_patches // 3, num_patches - 1, num_patches} - set(range(lowest)):
        patches = num_patches
        for merged in exact_schedule(num_patches, target, trend, num_layers):
            assert 0 <= merged <= patches // 2
            patches -= merged
        assert patches == target
    assert exact_schedule(num_patches, 1, trend, num_layers) == exact_schedule(num_patches, lowest, trend, num_layers)


def test_both_ways_of_adding_agree():
    """By index on a CPU, by a product where the order of additions by index is not fixed."""
    generator = torch.Generator().manual_seed(0)
    x, added = (torch.randn(2, n, 5, generator=generator) for n in (7, 9))
    targets = torch.randint(7, (2, 9), generator=generator)
    torch.testing.assert_close(add_by_product(x, targets, added), add_by_index(x, targets, added))


def test_trends():
    counts = {trend: exact_schedule(729, 300, trend, 26) for trend in TRENDS}
    assert max(counts["constant"]) - min(counts["constant"]) <= 1
    assert counts["decreasing"][0] > 2 * counts["decreasing"][20]
    assert counts["increasing"][20] > 2 * counts["increasing"][0]


@pytest.mark.parametrize("settings", [{"num_tokens": 13}, {"num_tokens": 49}, {"keep_ratio": 0.5}, {}], ids=str)
def test_the_budget_is_exact(tower, stream, settings):
    encoded = encode(ToMeCacher(**settings), tower, stream)
    patches = tower.facts.num_tokens - tower.facts.num_special_tokens
    expected = settings.get("num_tokens", int(patches * settings.get("keep_ratio", 0.25)))
    for trace in encoded.traces:
        assert num_left(trace) == trace.num_recomputed[-1] == expected + tower.facts.num_special_tokens
    assert encoded.features.shape == (len(stream), tower.facts.num_tokens, tower.facts.hidden_size)


def test_nothing_merged_is_the_plain_tower(tower, stream):
    for cacher in (ToMeCacher(r=0), ToMeCacher(keep_ratio=1.0)):
        assert torch.equal(encode(cacher, tower, stream).features, encode(NoCacher(), tower, stream).features)
        assert cacher.flops(tower.facts, encode(cacher, tower, stream).traces[0]) == vision_flops(tower.facts)


def test_patches_share_the_token_they_were_merged_into(tower, stream):
    encoded = encode(ToMeCacher(), tower, stream)
    for features, trace in zip(encoded.features, encoded.traces, strict=True):
        for group in trace.groups[-1].unique():
            members = features[trace.groups[-1] == group]
            assert torch.equal(members, members[:1].expand_as(members))


def test_the_class_token_stays_alone(stream, make_tower):
    for trace in encode(ToMeCacher(), make_tower("clip"), stream).traces:
        assert (trace.groups[-1] == trace.groups[-1][0]).sum() == 1


def test_merged_output_is_in_reading_order(tower, stream):
    merged = encode(ToMeCacher(num_tokens=16, output="merged"), tower, stream)
    grid = encode(ToMeCacher(num_tokens=16), tower, stream)
    assert merged.features.shape[1] == merged.sizes.shape[1] == 16 + tower.facts.num_special_tokens
    assert merged.update_ratio == grid.update_ratio
    for f, trace in enumerate(merged.traces):
        groups = trace.groups[-1]
        firsts = [int((groups == g).nonzero()[0]) for g in range(merged.features.shape[1])]
        assert firsts == sorted(firsts)
        assert torch.equal(merged.sizes[f], groups.bincount().float())
        assert torch.equal(merged.features[f][groups], grid.features[f])


def test_matching_merges_the_most_similar_pairs():
    metric = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.3, 1.0], [-1.0, 0.0], [-1.0, -1.0]]])
    merge = match(metric, 2, has_class_token=False)
    x, sizes = merge.apply(torch.arange(6.0).view(1, 6, 1), torch.ones(1, 6))
    assert sorted(merge.merged[0].tolist()) == [0, 2]
    assert x.flatten().tolist() == [4.0, 0.5, 2.5, 5.0] and sizes.tolist() == [[1.0, 2.0, 2.0, 1.0]]
    assert merge.follow(torch.arange(6)[None]).tolist() == [[1, 1, 2, 2, 0, 3]]


def test_weights_count_tokens_as_often(make_tower):
    block = make_tower("siglip").blocks[0]
    query, key, value = torch.randn(3, 1, 5, 32).unbind(0)
    weights = torch.tensor([[2.0, 1.0, 1.0, 3.0, 1.0]])
    repeated = weights[0].long()
    expected = block.attend(query, key.repeat_interleave(repeated, 1), value.repeat_interleave(repeated, 1))
    torch.testing.assert_close(block.attend_weighted(query, key, value, weights), expected, **CLOSE)


def test_flops_fall_with_the_tokens(tower, stream):
    costs = []
    for cacher in (ToMeCacher(num_tokens=49), ToMeCacher(num_tokens=30), ToMeCacher(num_tokens=13)):
        costs.append(cacher.flops(tower.facts, encode(cacher, tower, stream[:1]).traces[0]))
    assert costs[0] == vision_flops(tower.facts) > costs[1] > costs[2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_tokens": 0}, "cacher.num_tokens=0"),
        ({"keep_ratio": 0.0}, r"cacher.keep_ratio=0.0.*\(0, 1\]"),
        ({"num_tokens": 9, "r": 3}, "cacher.num_tokens=9 and cacher.r=3 contradict"),
        ({"r": -1}, "cacher.r=-1"),
        ({"r": [3, 1.5]}, r"cacher.r=\[3, 1.5\]"),
        ({"r": "many"}, "cacher.r=many"),
        ({"r": [3, 1], "schedule": "decreasing"}, "cacher.schedule=decreasing contradicts"),
        ({"schedule": "steep"}, "cacher.schedule=steep.*constant, decreasing, increasing"),
        ({"output": "tokens"}, "cacher.output=tokens.*grid, merged"),
        ({"output": "merged"}, "cacher.output=merged needs cacher.num_tokens"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        ToMeCacher(**settings)


@pytest.mark.parametrize("num_tokens", [1, 3, 6])
def test_what_the_layers_cannot_reach_is_merged_behind_them(tower, stream, num_tokens):
    cacher = ToMeCacher(num_tokens=num_tokens, output="merged")
    encoded = encode(cacher, tower, stream)
    layers = encode(ToMeCacher(num_tokens=fewest(49, tower.facts.num_layers)), tower, stream)
    for f, trace in enumerate(encoded.traces):
        assert num_left(trace) == encoded.sizes.shape[1] == num_tokens + tower.facts.num_special_tokens
        assert encoded.sizes[f].sum() == tower.facts.num_tokens
        assert trace.num_recomputed == layers.traces[f].num_recomputed
        mean = torch.stack([layers.features[f][trace.groups[-1] == g].mean(0) for g in range(num_left(trace))])
        torch.testing.assert_close(encoded.features[f], mean, **CLOSE)
    assert cacher.flops(tower.facts, trace) > ToMeCacher(num_tokens=7).flops(tower.facts, layers.traces[0])


def test_more_tokens_than_patches_are_named(tower, stream):
    with pytest.raises(ValueError, match="50 tokens are to be left of a frame that has 49 patches"):
        encode(ToMeCacher(num_tokens=50), tower, stream)


def test_the_default_is_a_quarter():
    assert ToMeCacher().answer_settings() == ToMeCacher(keep_ratio=0.25).answer_settings()
    assert ToMeCacher().answer_settings() != ToMeCacher(num_tokens=12).answer_settings()


def test_a_tower_that_cannot_merge_is_refused(make_tower, stream):
    tower = make_tower("siglip")
    tower.can_merge = False
    with pytest.raises(ValueError, match="cacher=tome cannot run on a SiglipTower"):
        encode(ToMeCacher(), tower, stream)

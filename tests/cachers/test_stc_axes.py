"""The axes of the paper's ablations: each setting does what it says, and its extremes are the plain tower."""

from __future__ import annotations

import itertools

import pytest
import torch
from selective_flops import selective_block_flops

from stc_lab.cachers import NoCacher, STCCacher
from stc_lab.cachers.selective import FEATURES, METRICS, REUSES, length, likeness
from stc_lab.measure.flops import vision_flops

CLOSE = dict(atol=1e-5, rtol=1e-5)
VARIANTS = list(itertools.product(FEATURES, REUSES))


def encode(cacher, tower, pixels):
    return cacher.encode(tower, pixels, cacher.new_state())


def plain(tower, pixels):
    return NoCacher().encode(tower, pixels, None).features


@pytest.mark.parametrize(("feature", "reuse"), VARIANTS)
def test_recomputing_all_tokens_is_the_plain_tower(tower, stream, feature, reuse):
    cacher = STCCacher(feature=feature, reuse=reuse, update_ratio=1.0, interval=None)
    torch.testing.assert_close(encode(cacher, tower, stream[:3]).features, plain(tower, stream[:3]), **CLOSE)


@pytest.mark.parametrize(("feature", "reuse"), VARIANTS)
def test_a_repeated_frame_is_the_plain_tower(tower, stream, feature, reuse):
    repeated = stream[:1].expand(3, -1, -1, -1)
    cacher = STCCacher(feature=feature, reuse=reuse, update_ratio=0.2, interval=None, chunk_size=2)
    torch.testing.assert_close(encode(cacher, tower, repeated).features, plain(tower, repeated), **CLOSE)


def by_hand(block, x, reference, rows, feature, reuse):
    """A selective layer for one frame [1, T, C], written without any saving: compute all, then overwrite."""
    current, past = block.norm1(x), block.norm1(reference)
    rest = torch.ones(x.shape[1], dtype=torch.bool)
    rest[rows] = False
    key, value = block.key(current), block.value(current)
    if reuse != "mlp":
        key[:, rest] = key[:, rest] if feature == "key" else block.key(past)[:, rest]
        value[:, rest] = value[:, rest] if feature == "value" else block.value(past)[:, rest]
    attended = block.project(block.attend(block.query(current), key, value))
    old = block.project(block.attend(block.query(past), block.key(past), block.value(past)))
    if reuse != "mlp":
        attended[:, rest] = old[:, rest]
    fed = block.mlp(block.norm2(x + attended))
    if reuse != "attention":
        fed[:, rest] = block.mlp(block.norm2(reference + old))[:, rest]
    return x + attended + fed


@pytest.mark.parametrize(("feature", "reuse"), VARIANTS)
def test_a_selective_layer_step_by_step(tower, stream, feature, reuse):
    encoded = encode(STCCacher(feature=feature, reuse=reuse, update_ratio=0.3, interval=None), tower, stream[:2])
    x, reference = tower.embed(stream[1:2]), tower.embed(stream[:1])
    for layer, block in enumerate(tower.blocks):
        current, past = (block.norm1(t) for t in (x, reference))
        compared = {"key": block.key, "value": block.value}.get(feature)
        now, then = (x, reference) if compared is None else (compared(current), compared(past))
        cosine = torch.cosine_similarity(now, then, dim=-1)[0]
        trace = encoded.traces[1]
        torch.testing.assert_close(trace.similarity[layer], cosine, **CLOSE)
        x = by_hand(block, x, reference, trace.recomputed[layer], feature, reuse)
        reference = block(reference)
    torch.testing.assert_close(encoded.features[1:], x, **CLOSE)


def test_metrics_by_hand():
    current, reference = torch.randn(2, 5, 8), torch.randn(5, 8)
    expected = {
        "cosine": torch.cosine_similarity(current, reference.expand_as(current), dim=-1),
        "l1": -(current - reference).abs().sum(-1),
        "l2": -(current - reference).square().sum(-1).sqrt(),
        "dot": (current * reference).sum(-1),
    }
    for metric in METRICS:
        torch.testing.assert_close(likeness(metric, current, reference, length(reference)), expected[metric], **CLOSE)


@pytest.mark.parametrize("metric", METRICS)
def test_the_least_similar_are_recomputed(tower, stream, metric):
    trace = encode(STCCacher(metric=metric, update_ratio=0.3, protect_cls=False), tower, stream).traces[1]
    for indices, similarity in zip(trace.recomputed, trace.similarity, strict=True):
        rest = torch.ones_like(similarity, dtype=torch.bool)
        rest[indices] = False
        assert similarity[indices].max() <= similarity[rest].min()


def test_half_precision_is_compared_in_full_precision():
    reference = torch.randn(5, 64, dtype=torch.bfloat16)
    assert likeness("l2", reference[None], reference, length(reference)).dtype == torch.float32


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_later_layers_share_the_selection(tower, stream, layer):
    shared = encode(STCCacher(selection_layer=layer), tower, stream).traces[1]
    alone = encode(STCCacher(), tower, stream).traces[1]
    for index in range(tower.facts.num_layers):
        if index <= layer:
            assert torch.equal(shared.recomputed[index], alone.recomputed[index])
        else:
            assert torch.equal(shared.recomputed[index], shared.recomputed[layer])
            assert shared.similarity[index] is None
    assert not torch.equal(alone.recomputed[0], alone.recomputed[2])


def test_a_selection_layer_beyond_the_tower_is_named(tower, stream):
    with pytest.raises(ValueError, match="cacher.selection_layer=3: the tower has 3 layers"):
        encode(STCCacher(selection_layer=3), tower, stream)


@pytest.fixture(scope="module")
def cut(make_stream):
    """Four frames of one scene, four of another."""
    return torch.cat([make_stream(0)[:4], make_stream(9)[4:] * 2])


@pytest.mark.parametrize("chunk_size", [1, 3, 8])
def test_a_scene_cut_refreshes_the_reference(tower, cut, chunk_size):
    settings = dict(interval=None, chunk_size=chunk_size, refresh_share=0.6)
    encoded = encode(STCCacher(**settings), tower, cut)
    first = set(range(chunk_size if chunk_size < 8 else 8))
    assert {f for f, flag in enumerate(encoded.is_reference) if flag} == first | {4}
    torch.testing.assert_close(encoded.features[4], plain(tower, cut[4:5])[0], **CLOSE)
    if chunk_size < 8:
        afterwards = encode(STCCacher(interval=None), tower, cut[4:6])
        torch.testing.assert_close(encoded.features[5], afterwards.features[1], **CLOSE)


def test_without_a_cut_watching_changes_nothing(tower, stream):
    watched = encode(STCCacher(interval=None, refresh_share=1.0), tower, stream)
    assert torch.equal(watched.features, encode(STCCacher(interval=None), tower, stream).features)


def test_regular_references_come_as_before(tower, cut):
    encoded = encode(STCCacher(interval=3, refresh_share=0.6), tower, cut)
    assert [f for f, flag in enumerate(encoded.is_reference) if flag] == [0, 3, 4, 6]


@pytest.mark.parametrize("sizes", [[1] * 8, [2, 3, 3]], ids=str)
def test_how_frames_come_in_calls_does_not_matter_across_a_cut(tower, cut, sizes):
    cacher = STCCacher(interval=None, chunk_size=3, refresh_share=0.6)
    state = cacher.new_state()
    parts = [cacher.encode(tower, part, state).features for part in cut.split(sizes)]
    torch.testing.assert_close(torch.cat(parts), encode(cacher, tower, cut).features, **CLOSE)


def test_frames_of_another_size_need_a_new_stream(tower, stream):
    cacher = STCCacher()
    state = cacher.new_state()
    cacher.encode(tower, stream[:1], state)
    with pytest.raises(ValueError, match="start a new stream"):
        cacher.run(tower, torch.zeros(1, 9, 32), state)


def test_flops_of_the_default_are_those_of_the_formula(tower, stream):
    cacher = STCCacher()
    reference, selective = encode(cacher, tower, stream[:2]).traces
    facts, count = tower.facts, selective.num_recomputed[0]
    layer = selective_block_flops(facts.num_tokens, count, facts.hidden_size, facts.mlp_size)
    assert cacher.flops(facts, selective) == tower.facts.num_layers * layer
    assert cacher.flops(facts, reference) == vision_flops(facts)


@pytest.mark.parametrize(("feature", "reuse"), VARIANTS)
def test_flops_of_all_tokens_are_those_of_the_tower_and_the_comparison(tower, stream, feature, reuse):
    cacher = STCCacher(feature=feature, reuse=reuse, update_ratio=1.0, selection_layer=0)
    trace = encode(cacher, tower, stream[:2]).traces[1]
    comparison = 6 * tower.facts.num_tokens * tower.facts.hidden_size
    assert cacher.flops(tower.facts, trace) == vision_flops(tower.facts) + comparison


def test_reusing_both_is_cheapest(tower, stream):
    costs = {}
    for reuse in REUSES:
        cacher = STCCacher(reuse=reuse)
        costs[reuse] = cacher.flops(tower.facts, encode(cacher, tower, stream[:2]).traces[1])
    assert costs["both"] < min(costs["attention"], costs["mlp"]) < vision_flops(tower.facts)


def test_settings_that_cannot_matter_are_left_out():
    assert STCCacher(interval=1).answer_settings() == STCCacher(interval=1, update_ratio=0.9).answer_settings()
    assert STCCacher(refresh_threshold=0.5).answer_settings() == STCCacher().answer_settings()
    assert STCCacher(threshold=0.85, update_ratio=0.5).answer_settings() == STCCacher(threshold=0.85).answer_settings()
    assert STCCacher(feature="value").answer_settings() != STCCacher().answer_settings()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"feature": "query"}, "cacher.feature=query.*key, value, hidden"),
        ({"metric": "l3"}, "cacher.metric=l3.*cosine, l1, l2, dot"),
        ({"reuse": "none"}, "cacher.reuse=none.*both, attention, mlp"),
        ({"selection_layer": -1}, "cacher.selection_layer=-1"),
        ({"refresh_share": 1.5}, r"cacher.refresh_share=1.5.*\[0, 1\]"),
        ({"refresh_threshold": -1}, "cacher.refresh_threshold=-1"),
        ({"metric": "dot", "threshold": 0.9}, "cacher.metric=dot.*cacher.threshold=0.9"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        STCCacher(**settings)

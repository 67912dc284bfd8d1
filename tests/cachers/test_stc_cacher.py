"""What STC-Cacher promises, apart from upstream numbers."""

from __future__ import annotations

import pytest
import torch

from stc_lab.cachers import NoCacher, STCCacher

CLOSE = dict(atol=1e-5, rtol=1e-5)


def encode(cacher, tower, pixels):
    return cacher.encode(tower, pixels, cacher.new_state())


def plain(tower, pixels):
    return NoCacher().encode(tower, pixels, None).features


EVERYTHING = [{"interval": 1}, {"update_ratio": 1.0}, {"threshold": 1.0, "interval": None}]


@pytest.mark.parametrize("settings", EVERYTHING, ids=str)
def test_recomputing_everything_is_the_plain_tower(tower, stream, settings):
    torch.testing.assert_close(encode(STCCacher(**settings), tower, stream).features, plain(tower, stream), **CLOSE)


@pytest.mark.parametrize("settings", [{"update_ratio": 0.1}, {"threshold": 0.5}, {"chunk_size": 2}], ids=str)
def test_a_repeated_frame_is_the_plain_tower(tower, stream, settings):
    repeated = stream[:1].expand(4, -1, -1, -1)
    encoded = encode(STCCacher(interval=None, **settings), tower, repeated)
    torch.testing.assert_close(encoded.features, plain(tower, repeated), **CLOSE)


def test_selective_frames_differ_from_the_plain_tower_but_less_with_more_updates(tower, stream):
    expected = plain(tower, stream)
    errors = [
        (encode(STCCacher(interval=None, update_ratio=ratio), tower, stream).features - expected).abs().mean()
        for ratio in (0.1, 0.5, 0.9)
    ]
    assert errors[0] > errors[1] > errors[2] > 0


@pytest.mark.parametrize(
    ("interval", "chunk_size", "references"),
    [
        (2, 1, [0, 2, 4, 6]),
        (3, 1, [0, 3, 6]),
        (None, 1, [0]),
        (2, 2, [0, 1, 4, 5]),
        (None, 3, [0, 1, 2]),
        (2, 5, [0, 1, 2, 3, 4]),
    ],
)
def test_which_frames_are_references(tower, stream, interval, chunk_size, references):
    encoded = encode(STCCacher(interval=interval, chunk_size=chunk_size), tower, stream)
    assert [f for f, flag in enumerate(encoded.is_reference) if flag] == references


def test_batch_sizes_are_reported(tower, stream):
    encoded = encode(STCCacher(chunk_size=3), tower, stream)
    assert [trace.batch_size for trace in encoded.traces] == [3, 3, 3, 3, 3, 3, 2, 2]


def test_chunks_compare_with_the_last_frame_of_the_reference_chunk(tower, stream):
    cacher = STCCacher(chunk_size=2, update_ratio=0.3)
    frame_by_frame = STCCacher(interval=None, update_ratio=0.3)
    together = encode(cacher, tower, stream[:4]).features
    for f in (2, 3):
        alone = encode(frame_by_frame, tower, stream[[1, f]]).features
        torch.testing.assert_close(together[f], alone[1], **CLOSE)


def test_ratio_counts(tower, stream):
    patches = tower.facts.num_tokens - tower.facts.num_special_tokens
    encoded = encode(STCCacher(update_ratio=0.3), tower, stream)
    expected = tower.facts.num_special_tokens + int(patches * 0.3)
    assert encoded.num_recomputed[1] == [expected] * tower.facts.num_layers
    assert encoded.num_recomputed[0] == [tower.facts.num_tokens] * tower.facts.num_layers
    assert encoded.update_ratio[1] == pytest.approx(expected / tower.facts.num_tokens)
    none_asked = encode(STCCacher(update_ratio=0.0), tower, stream)
    assert none_asked.num_recomputed[1] == [tower.facts.num_special_tokens + 1] * tower.facts.num_layers


@pytest.mark.parametrize("max_update_ratio", [1.0, 0.2])
def test_threshold_recomputes_what_falls_below(tower, stream, max_update_ratio):
    cacher = STCCacher(threshold=0.97, max_update_ratio=max_update_ratio, protect_cls=False)
    cap = int(tower.facts.num_tokens * max_update_ratio)
    for trace in encode(cacher, tower, stream).traces:
        for indices, similarity in zip(trace.recomputed or [], trace.similarity or [], strict=True):
            below = (similarity < 0.97).nonzero().flatten()
            least = similarity.argsort(stable=True)[:cap].sort().values
            assert torch.equal(indices, below if len(below) <= cap else least)
            assert len(indices) <= cap


def test_a_cap_of_zero_recomputes_nothing(tower, stream):
    encoded = encode(STCCacher(threshold=0.9, max_update_ratio=0.0, protect_cls=False), tower, stream)
    assert encoded.num_recomputed[1] == [0] * tower.facts.num_layers
    assert bool(encoded.features.isfinite().all())


def test_ragged_counts_in_one_batch_equal_frames_one_by_one(tower, stream):
    batched = STCCacher(threshold=0.97, chunk_size=4)
    encoded = encode(batched, tower, stream)
    counts = [trace.num_recomputed[0] for trace in encoded.traces[4:]]
    assert len(set(counts)) > 1
    for f in range(4, 8):
        alone = encode(STCCacher(threshold=0.97, interval=None), tower, stream[[3, f]])
        torch.testing.assert_close(encoded.features[f], alone.features[1], **CLOSE)


def test_class_token_is_protected_by_default(stream, make_tower):
    tower = make_tower("clip")
    assert all(0 in indices for indices in encode(STCCacher(), tower, stream).traces[1].recomputed)
    released = encode(STCCacher(protect_cls=False), tower, stream).traces[1]
    assert not any(0 in indices for indices in released.recomputed)
    assert released.similarity[-1][0] == pytest.approx(1.0, abs=1e-6)


def test_the_reference_keeps_no_larger_tensor_alive(tower, stream):
    state = STCCacher(chunk_size=8).new_state()
    STCCacher(chunk_size=8).encode(tower, stream, state)
    for reference in state.references:
        for tensor in (reference.compared, reference.length, reference.value, reference.update):
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"interval": 0}, "cacher.interval=0.*at least 1"),
        ({"update_ratio": 1.5}, r"cacher.update_ratio=1.5.*\[0, 1\]"),
        ({"threshold": -0.1}, r"cacher.threshold=-0.1.*\[0, 1\]"),
        ({"max_update_ratio": 2}, r"cacher.max_update_ratio=2.*\[0, 1\]"),
        ({"chunk_size": 0}, "cacher.chunk_size=0"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        STCCacher(**settings)

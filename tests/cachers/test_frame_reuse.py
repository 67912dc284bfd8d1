"""What whole-frame reuse promises."""

from __future__ import annotations

import pytest
import torch

from stc_lab.cachers import FrameReuseCacher, NoCacher
from stc_lab.measure.flops import vision_flops


def encode(cacher, tower, pixels):
    return cacher.encode(tower, pixels, cacher.new_state())


@pytest.fixture(scope="module")
def scenes(make_stream):
    """Two still scenes of three frames with little noise, then the first again."""
    first, second = make_stream(0)[:1], make_stream(7)[:1]
    still = torch.cat([first] * 3 + [second] * 3 + [first] * 2)
    return still + 0.01 * torch.randn(still.shape, generator=torch.Generator().manual_seed(1))


def test_frames_are_computed_where_the_scene_changes(tower, scenes):
    encoded = encode(FrameReuseCacher(threshold=0.9), tower, scenes)
    assert [f for f, flag in enumerate(encoded.is_reference) if flag] == [0, 3, 6]
    plain = encode(NoCacher(), tower, scenes).features
    for f, source in enumerate([0, 0, 0, 3, 3, 3, 6, 6]):
        torch.testing.assert_close(encoded.features[f], plain[source], atol=1e-5, rtol=1e-5)
    assert torch.equal(encoded.features[1], encoded.features[0])
    assert encoded.update_ratio == [1, 0, 0, 1, 0, 0, 1, 0]


def test_a_frame_is_compared_with_the_one_computed_last(tower, stream):
    """Slow drift must not go unnoticed: each frame is like the one before, the last unlike the first."""
    drift = torch.stack([torch.lerp(stream[0], stream[-1] * -1, step / 20) for step in range(20)])
    threshold = 0.95
    encoded = encode(FrameReuseCacher(threshold=threshold), tower, drift)
    embedded, reference = tower.embed(drift), None
    for x, is_reference in zip(embedded, encoded.is_reference, strict=True):
        cosine = 0.0 if reference is None else torch.cosine_similarity(x, reference, dim=-1).mean().item()
        assert is_reference == (cosine <= threshold)
        reference = x if is_reference else reference
    assert 1 < sum(encoded.is_reference) < 20


@pytest.mark.parametrize(("max_age", "references"), [(1, 4), (2, 2), (3, 2), (None, 1)])
def test_a_computed_frame_ages(tower, stream, max_age, references):
    encoded = encode(FrameReuseCacher(threshold=0.0, max_age=max_age), tower, stream[:1].expand(4, -1, -1, -1))
    assert sum(encoded.is_reference) == references


def test_threshold_one_computes_every_frame_that_differs(tower, stream):
    encoded = encode(FrameReuseCacher(threshold=1.0), tower, stream)
    assert all(encoded.is_reference)


def test_cost(tower, scenes):
    cacher = FrameReuseCacher(threshold=0.9)
    computed, reused = encode(cacher, tower, scenes).traces[:2]
    comparison = 6 * tower.facts.num_tokens * tower.facts.hidden_size
    assert cacher.flops(tower.facts, reused) == comparison
    assert cacher.flops(tower.facts, computed) == comparison + vision_flops(tower.facts)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"threshold": 1.5}, r"cacher.threshold=1.5.*\[0, 1\]"), ({"max_age": 0}, "cacher.max_age=0.*null")],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        FrameReuseCacher(**settings)

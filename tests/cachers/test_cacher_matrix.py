"""Every cacher with a YAML file: streams, calls and sessions. A new method joins by its two files alone."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf

from stc_lab.config import build, conf_dir
from stc_lab.measure.flops import vision_flops

METHODS = sorted(path.stem for path in (conf_dir() / "cacher").glob("*.yaml"))
CLOSE = dict(atol=1e-5, rtol=1e-5)


def make(method: str, chunk_size: int):
    node = OmegaConf.load(conf_dir() / f"cacher/{method}.yaml")
    if "chunk_size" in node:
        node.chunk_size = chunk_size
    return build(node)


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.fixture(params=[1, 3], ids="chunk{}".format)
def cacher(request, method):
    return make(method, request.param)


def in_calls(cacher, tower, pixels, sizes):
    state = cacher.new_state()
    return torch.cat([cacher.encode(tower, part, state).features for part in pixels.split(sizes)])


def test_report_fits_the_frames(cacher, tower, stream):
    encoded = cacher.encode(tower, stream, cacher.new_state())
    assert encoded.features.shape[0] == len(encoded.traces) == len(stream)
    assert bool(encoded.features.isfinite().all())
    first = encoded.traces[0]
    assert first.recomputed is None and first.similarity is None, "there is nothing yet that could be reused"
    assert first.is_reference == (first.groups is None)
    for trace in encoded.traces:
        assert len(trace.num_recomputed) == tower.facts.num_layers
        assert 0 < cacher.flops(tower.facts, trace) <= 1.05 * vision_flops(tower.facts)
        for count, indices in zip(trace.num_recomputed, trace.recomputed or [], strict=trace.recomputed is not None):
            assert count == len(indices) and 0 <= count <= tower.facts.num_tokens
            assert bool((indices.diff() > 0).all())
    assert all(0 <= ratio <= 1 for ratio in encoded.update_ratio)


@pytest.mark.parametrize("sizes", [[1] * 8, [2, 3, 3], [5, 1, 2]], ids=str)
def test_how_frames_come_in_calls_does_not_matter(cacher, tower, stream, sizes):
    torch.testing.assert_close(in_calls(cacher, tower, stream, sizes), in_calls(cacher, tower, stream, [8]), **CLOSE)


def test_future_frames_do_not_matter(cacher, tower, stream, make_stream):
    other = torch.cat([stream[:4], make_stream(seed=9)[4:]])
    first = in_calls(cacher, tower, stream, [8])[:4]
    torch.testing.assert_close(first, in_calls(cacher, tower, other, [8])[:4], **CLOSE)


def test_interleaved_sessions_are_separate(cacher, tower, stream, make_stream):
    streams = (stream, make_stream(seed=1))
    states = [cacher.new_state() for _ in streams]
    features = [[], []]
    for f in range(8):
        for mine, pixels, state in zip(features, streams, states, strict=True):
            mine.append(cacher.encode(tower, pixels[f : f + 1], state).features)
    for mine, pixels in zip(features, streams, strict=True):
        assert torch.equal(torch.cat(mine), in_calls(cacher, tower, pixels, [1] * 8))


def test_a_new_state_starts_afresh(cacher, tower, stream, make_stream):
    first = in_calls(cacher, tower, stream, [8])
    in_calls(cacher, tower, make_stream(seed=1), [8])
    assert torch.equal(in_calls(cacher, tower, stream, [8]), first)


def test_returned_features_are_never_overwritten(cacher, tower, stream):
    state = cacher.new_state()
    outputs = [cacher.encode(tower, frame[None], state).features for frame in stream[:4]]
    copies = [features.clone() for features in outputs]
    cacher.encode(tower, stream[4:], state)
    assert all(torch.equal(features, copy) for features, copy in zip(outputs, copies, strict=True))


def test_half_precision(cacher, stream, make_tower):
    encoded = cacher.encode(make_tower("siglip", torch.bfloat16), stream, cacher.new_state())
    assert encoded.features.dtype == torch.bfloat16
    assert bool(encoded.features.isfinite().all())


def test_settings_are_frozen_and_shown(cacher, method):
    with pytest.raises(AttributeError):
        cacher.name = "other"
    assert f"name='{method}'" in repr(cacher)

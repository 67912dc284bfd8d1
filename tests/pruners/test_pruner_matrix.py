"""Every pruner with a YAML file: budgets, order, streams and sessions. A new method joins by its two files alone."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf

from stc_lab.config import build, conf_dir
from stc_lab.pruners import NoPruner, ScorePruner

METHODS = sorted(path.stem for path in (conf_dir() / "pruner").glob("*.yaml"))
TOKENS = 196


def make(method: str, **settings):
    node = OmegaConf.load(conf_dir() / f"pruner/{method}.yaml")
    return build(OmegaConf.merge({"seed": 0}, {"pruner": OmegaConf.merge(node, settings)}).pruner)


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.fixture(params=[1, 33, 64, TOKENS], ids="budget{}".format)
def pruner(request, method):
    return make(method, budget=request.param)


def positions(reduced):
    return [frame.positions for frame in reduced]


def in_calls(pruner, frames, size=8):
    """Positions kept when frames come ``size`` at a time (at least a window of the method)."""
    size, state = max(size, pruner.window_frames), pruner.new_state()
    calls = [frames[start : start + size] for start in range(0, len(frames), size)]
    return [kept for call in calls for kept in positions(pruner.compress(call, state))]


def same(first, second):
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_budget_is_exact(pruner, frames):
    reduced = pruner.compress(frames, pruner.new_state())
    expected = TOKENS if isinstance(pruner, NoPruner) else pruner.budget
    assert sum(frame.num_tokens for frame in reduced) == expected * len(frames)
    if pruner.window_frames == 1:
        assert all(frame.num_tokens == expected == pruner.num_kept(TOKENS) for frame in reduced)


@pytest.mark.parametrize(("keep_ratio", "expected"), [(0.3, 58), (0.001, 1), (1.0, 196)])
def test_keep_ratio_is_rounded_down_but_keeps_one(method, frames, keep_ratio, expected):
    pruner = make(method, keep_ratio=keep_ratio)
    expected = TOKENS if isinstance(pruner, NoPruner) else expected
    assert pruner.num_kept(TOKENS) == expected
    assert sum(frame.num_tokens for frame in pruner.compress(frames, pruner.new_state())) == expected * len(frames)


def test_order_and_content_are_kept(pruner, frames):
    for before, after in zip(frames, pruner.compress(frames, pruner.new_state()), strict=True):
        assert bool((after.positions.diff() > 0).all())
        assert after.grid == before.grid and after.timestamp_s == before.timestamp_s
        if after.sizes is None:
            assert torch.equal(after.tokens, before.tokens[after.positions])


def test_highest_scores_are_kept(pruner, frames):
    if not isinstance(pruner, ScorePruner):
        pytest.skip("keeps no scores")
    state = pruner.new_state()
    for frame in frames:
        scores = pruner.score(frame.tokens[None], state)[0]
        kept = pruner.compress([frame], state)[0].positions
        dropped = torch.ones(TOKENS, dtype=torch.bool)
        dropped[kept] = False
        assert not dropped.any() or scores[kept].min() >= scores[dropped].max()


def test_how_frames_come_in_calls_does_not_matter(pruner, frames):
    if len(frames) % pruner.window_frames == 0:
        assert same(in_calls(pruner, frames, size=1), in_calls(pruner, frames, size=8))


def test_future_frames_do_not_matter(pruner, frames, make_frames):
    half = len(frames) // 2 // pruner.window_frames * pruner.window_frames
    other = frames[:half] + make_frames(seed=9)[half:]
    assert same(in_calls(pruner, frames)[:half], in_calls(pruner, other)[:half])


def test_interleaved_sessions_are_separate(pruner, frames, make_frames):
    streams = (frames, make_frames(seed=1))
    states, kept = [pruner.new_state() for _ in streams], [[], []]
    for start in range(0, len(frames), pruner.window_frames):
        for stream, state, mine in zip(streams, states, kept, strict=True):
            mine += positions(pruner.compress(stream[start : start + pruner.window_frames], state))
    assert all(same(mine, in_calls(pruner, stream)) for mine, stream in zip(kept, streams, strict=True))


def test_a_new_state_starts_afresh(pruner, frames, make_frames):
    first = in_calls(pruner, frames)
    in_calls(pruner, make_frames(seed=1))
    assert same(in_calls(pruner, frames), first)


def test_half_precision(pruner, make_frames):
    frames = make_frames(dtype=torch.bfloat16)
    assert all(frame.tokens.dtype == torch.bfloat16 for frame in pruner.compress(frames, pruner.new_state()))


def test_explicit_call(pruner, frames):
    stacked = torch.stack([frame.tokens for frame in frames])
    assert same(positions(pruner(stacked)), in_calls(pruner, frames))
    state = pruner.new_state()
    assert same([pruner(tokens, state).positions for tokens in stacked[:1]], positions(pruner(stacked[:1])))


def test_a_budget_that_does_not_fit_is_named(method):
    if isinstance(make(method), NoPruner):
        make(method, budget=0, keep_ratio=0.5).check(TOKENS)
        return
    with pytest.raises(ValueError, match=r"pruner.budget=200.*1\.\.196"):
        make(method, budget=200).check(TOKENS)
    with pytest.raises(ValueError, match="pruner.budget=0"):
        make(method, budget=0)
    with pytest.raises(ValueError, match=r"pruner.keep_ratio=1.5.*\(0, 1\]"):
        make(method, keep_ratio=1.5)
    with pytest.raises(ValueError, match="pruner.budget=64 and pruner.keep_ratio=0.5 contradict"):
        make(method, budget=64, keep_ratio=0.5)


def test_default_is_64_tokens(method):
    pruner = make(method)
    assert pruner.num_kept(TOKENS) == (TOKENS if isinstance(pruner, NoPruner) else 64)
    pruner.check(TOKENS)


def test_settings_are_frozen_and_shown(pruner, method):
    with pytest.raises(AttributeError):
        pruner.budget = 3
    assert f"name='{method}'" in repr(pruner) and f"budget={pruner.budget}" in repr(pruner)
    assert pruner.flops(TOKENS, 896) >= 0

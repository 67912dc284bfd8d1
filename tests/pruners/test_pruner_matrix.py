"""Every pruner with a YAML file: budgets, order, streams and sessions. A new method joins by its two files alone."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from omegaconf import OmegaConf
from pruner_streams import METHODS, TOKENS, compress, contexts, in_calls, make, positions, same

from stc_lab.config import conf_dir
from stc_lab.pruners import NoPruner
from stc_lab.pruners.base import ScorePruner

SCORING = [method for method in METHODS if isinstance(make(method), ScorePruner)]
NEEDING = [method for method in METHODS if make(method).needs]


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.fixture
def pruner(request, method):
    """With a budget of 33 tokens, or with those that a test names: states and calls do not depend on it."""
    return make(method, budget=getattr(request, "param", 33))


at_every_budget = pytest.mark.parametrize("pruner", [1, 33, 64, TOKENS], ids="budget{}".format, indirect=True)


@pytest.fixture
def frames(pruner, make_frames):
    """At least two windows of the method."""
    return make_frames(num_frames=max(6, 2 * pruner.window_frames))


def num_kept(pruner):
    return TOKENS if isinstance(pruner, NoPruner) else pruner.budget


@at_every_budget
def test_budget_is_exact(pruner, frames):
    """Per frame, or over each window of a method that divides its budget; a short window at the end included."""
    frames = frames[:-1] if pruner.window_frames > 1 else frames
    counts = [frame.num_tokens for frame in compress(pruner, frames)]
    for start in range(0, len(frames), pruner.window_frames):
        window = counts[start : start + pruner.window_frames]
        assert sum(window) == num_kept(pruner) * len(window)
        assert max(window) <= pruner.max_kept(TOKENS)


@pytest.mark.parametrize(("keep_ratio", "expected"), [(0.3, 58), (0.001, 1), (1.0, 196)])
def test_keep_ratio_is_rounded_down_but_keeps_one(method, make_frames, keep_ratio, expected):
    pruner, frames = make(method, keep_ratio=keep_ratio), make_frames(num_frames=4)
    expected = TOKENS if isinstance(pruner, NoPruner) else expected
    assert pruner.num_kept(TOKENS) == expected
    assert sum(frame.num_tokens for frame in compress(pruner, frames)) == expected * len(frames)


@at_every_budget
def test_order_and_content_are_kept(pruner, frames):
    """What is dropped leaves the rest as it was, in order; what is merged stands somewhere, and stands for a size."""
    for before, after in zip(frames, compress(pruner, frames), strict=True):
        assert after.grid == before.grid and after.timestamp_s == before.timestamp_s
        assert len(after.positions) == len(after.tokens) == len(after.positions.unique())
        if after.sizes is None:
            assert bool((after.positions.diff() > 0).all())
            assert torch.equal(after.tokens, before.tokens[after.positions])
        else:
            assert len(after.sizes) == len(after.tokens) and bool((after.sizes > 0).all())
            assert after.sizes.sum() <= TOKENS + 1e-3


def test_all_tokens_is_no_pruning(method, make_frames):
    frames = make_frames(num_frames=4)
    for before, after in zip(frames, compress(make(method, budget=TOKENS), frames), strict=True):
        torch.testing.assert_close(after.tokens[after.positions.argsort()], before.tokens)


@at_every_budget
@pytest.mark.parametrize("method", SCORING, indirect=True)
def test_highest_scores_are_kept(pruner, frames):
    state = pruner.new_state()
    for frame in frames:
        scores = pruner.score(frame.tokens[None], state)[0]
        kept = compress(pruner, [frame], state)[0].positions
        dropped = torch.ones(TOKENS, dtype=torch.bool)
        dropped[kept] = False
        assert not dropped.any() or scores[kept].min() >= scores[dropped].max()


@at_every_budget
def test_how_frames_come_in_calls_does_not_matter(pruner, frames):
    """As long as windows are complete, as a session hands them over."""
    assert same(in_calls(pruner, frames, pruner.window_frames), in_calls(pruner, frames, len(frames)))


def test_future_frames_do_not_matter(pruner, frames, make_frames):
    half = max(len(frames) // 2, pruner.window_frames)
    other = frames[:half] + make_frames(seed=9, num_frames=len(frames))[half:]
    size = pruner.window_frames
    assert same(in_calls(pruner, frames, size)[:half], in_calls(pruner, other, size)[:half])


def test_interleaved_sessions_are_separate(pruner, frames, make_frames):
    size, streams = pruner.window_frames, (frames, make_frames(seed=1, num_frames=len(frames)))
    states, kept = [pruner.new_state() for _ in streams], [[], []]
    for start in range(0, len(frames), size):
        for stream, state, mine in zip(streams, states, kept, strict=True):
            mine += positions(compress(pruner, stream[start : start + size], state))
    assert all(same(mine, in_calls(pruner, stream, size)) for mine, stream in zip(kept, streams, strict=True))


def test_a_new_state_starts_afresh(pruner, frames, make_frames):
    first = in_calls(pruner, frames, pruner.window_frames)
    in_calls(pruner, make_frames(seed=1), pruner.window_frames)
    assert same(in_calls(pruner, frames, pruner.window_frames), first)


def test_half_precision(pruner, make_frames):
    frames = make_frames(dtype=torch.bfloat16, num_frames=2)
    assert all(frame.tokens.dtype == torch.bfloat16 for frame in compress(pruner, frames))


def test_explicit_call(pruner, frames):
    stacked = torch.stack([frame.tokens for frame in frames])
    kept = positions(pruner(stacked, context=contexts(frames)))
    assert same(kept, in_calls(pruner, frames, pruner.window_frames))
    single = pruner(stacked[0], pruner.new_state(), context=contexts(frames[:1]))
    assert torch.equal(single.positions, positions(compress(pruner, frames[:1]))[0])


@pytest.mark.parametrize("method", NEEDING, indirect=True)
def test_what_is_needed_is_asked_for(pruner, frames):
    with pytest.raises(ValueError, match=rf"needs {' and '.join(sorted(pruner.needs))} of the vision tower"):
        pruner.compress(frames, pruner.new_state())


def test_a_budget_that_does_not_fit_is_named(method):
    if isinstance(make(method), NoPruner):
        make(method, budget=0, keep_ratio=0.5).check(TOKENS)
        return
    for ask in ("check", "max_kept"):
        with pytest.raises(ValueError, match=r"pruner.budget=200.*1\.\.196"):
            getattr(make(method, budget=200), ask)(TOKENS)
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


def test_the_yaml_file_names_every_setting(method):
    """With its default, so that a setting that is not given means the same in Python and on the command line."""
    node = OmegaConf.to_container(OmegaConf.load(conf_dir() / f"pruner/{method}.yaml"), resolve=False)
    pruner = make(method)
    assert set(node) - {"_target_"} == {field.name for field in fields(pruner)}
    plain = type(pruner)()
    for field in fields(pruner):
        assert getattr(pruner, field.name) == getattr(plain, field.name)

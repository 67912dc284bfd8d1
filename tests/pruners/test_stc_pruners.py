"""The two STC pruners: upstream numbers, windows and memory."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from stc_lab.pruners.stc import STCPruner
from stc_lab.pruners.stc_gaussian import STCGaussianPruner

SCORES = dict(atol=5e-6, rtol=0)


@pytest.fixture(scope="module")
def golden(shared_dir):
    return shared_dir / "golden/compression"


def read(golden, case):
    description = json.loads((golden / case / "case.json").read_text())
    tokens = load_file(golden / "pruner_stream/data.safetensors")["tokens"]
    return description, load_file(golden / case / "data.safetensors"), tokens


def scores(pruner, tokens, chunk_size=1):
    """Scores of all frames of ``tokens`` [F, T, D] in stream order."""
    state, parts = pruner.new_state(), []
    for chunk in tokens.float().split(chunk_size):
        parts.append(pruner.score(chunk, state))
        pruner.remember(chunk, state)
    return torch.cat(parts)


def kept(pruner, tokens):
    return torch.stack([frame.positions for frame in pruner(tokens)])


def test_dual_anchor_upstream_numbers(golden):
    description, data, tokens = read(golden, "stc_pruner_dual_anchor")
    for combination in description["combos"]:
        settings, name = {key: combination[key] for key in ("alpha", "window")}, combination["name"]
        torch.testing.assert_close(scores(STCPruner(**settings), tokens), data[f"{name}.score"], **SCORES)
        for budget in description["budgets"]:
            assert torch.equal(kept(STCPruner(budget=budget, **settings), tokens), data[f"{name}.kept_{budget}"].long())


def test_gaussian_upstream_numbers(golden):
    description, data, tokens = read(golden, "stc_pruner_gaussian")
    for variant in description["variants"]:
        prefix, size = variant["prefix"], variant["frames_per_chunk"]
        settings, frames = {"channel_mixing": True, "chunk_size": size}, tokens[: variant["frames"]]
        got = -scores(STCGaussianPruner(**settings), frames, size)
        torch.testing.assert_close(got, data[f"{prefix}.score"], **SCORES)
        for budget in description["budgets"]:
            indices = kept(STCGaussianPruner(budget=budget, **settings), frames)
            assert torch.equal(indices, data[f"{prefix}.kept_{budget}"].long())


@pytest.mark.parametrize("window", [1, 3])
def test_only_the_window_before_a_frame_counts(frames, make_frames, window):
    pruner, other = STCPruner(window=window), make_frames(seed=5)
    tokens = torch.stack([frame.tokens for frame in frames])
    changed = tokens.clone()
    changed[: 6 - window] = torch.stack([frame.tokens for frame in other[: 6 - window]])
    assert torch.equal(scores(pruner, tokens)[6], scores(pruner, changed)[6])
    changed[6 - window] += torch.randn(32)
    assert not torch.equal(scores(pruner, tokens)[6], scores(pruner, changed)[6])


def test_an_unlimited_window_counts_every_frame(frames):
    tokens = torch.stack([frame.tokens for frame in frames])
    long_window, unlimited = (scores(STCPruner(window=window), tokens) for window in (100, None))
    torch.testing.assert_close(long_window, unlimited)
    changed = tokens.clone()
    changed[0] += torch.randn(32)
    assert not torch.allclose(unlimited[7], scores(STCPruner(window=None), changed)[7])


def test_alpha_weighs_the_two_anchors(frames):
    tokens = torch.stack([frame.tokens for frame in frames])
    spatial, temporal, half = (scores(STCPruner(alpha=alpha), tokens) for alpha in (0.0, 1.0, 0.5))
    torch.testing.assert_close(half[1:], (spatial + temporal)[1:] / 2)
    assert torch.equal(spatial[0], temporal[0])


def test_gaussian_memory_in_all_channels_differs_from_the_released_mixing(frames):
    tokens = torch.stack([frame.tokens for frame in frames])
    mixed, clean = (scores(STCGaussianPruner(channel_mixing=flag), tokens) for flag in (True, False))
    torch.testing.assert_close(mixed[0], clean[0])
    assert not torch.allclose(mixed[5], clean[5])


def test_gaussian_memory_may_exclude_the_frame_itself(frames):
    pruner = STCGaussianPruner(memory_includes_current=False)
    first, state = frames[0].tokens[None], pruner.new_state()
    with_memory = STCGaussianPruner()
    assert not torch.allclose(pruner.score(first, state), with_memory.score(first, with_memory.new_state()))
    pruner.remember(first, state)
    again = pruner.score(first, state)
    with_state = with_memory.new_state()
    with_memory.remember(first, with_state)
    torch.testing.assert_close(again, with_memory.score(first, with_state))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"alpha": 1.2}, r"pruner.alpha=1.2.*\[0, 1\]"), ({"window": 0}, "pruner.window=0.*null")],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        STCPruner(**settings)
    with pytest.raises(ValueError, match="pruner.chunk_size=0"):
        STCGaussianPruner(chunk_size=0)

"""VidCom2: upstream numbers, and budgets that follow how unusual a frame is."""

from __future__ import annotations

import json

import pytest
import torch
from pruner_streams import compress
from safetensors.torch import load_file

from stc_lab.pruners.base import apportion
from stc_lab.pruners.vidcom2 import VidCom2Pruner, closeness, quiet_channels
from stc_lab.types import VisualTokens


@pytest.fixture(scope="module")
def golden(shared_dir):
    folder = shared_dir / "golden/compression/vidcom2"
    return json.loads((folder / "case.json").read_text()), load_file(folder / "data.safetensors")


def test_upstream_scores(golden):
    _, data = golden
    tokens = data["tokens"].float()
    to_video, to_frame = closeness(tokens)
    assert torch.equal(quiet_channels(tokens).sort().values, data["channels"].long())
    torch.testing.assert_close(to_video, data["score_video"], atol=5e-6, rtol=0)
    torch.testing.assert_close(to_frame, data["score_frame"], atol=5e-6, rtol=0)
    torch.testing.assert_close(to_video + to_frame, data["score"], atol=5e-6, rtol=0)


def test_upstream_budgets_and_tokens(golden):
    case, data = golden
    tokens, temperature = data["tokens"].float(), case["softmax_temperature"]
    for combination in case["combos"]:
        wanted = {key.split(".")[1]: data[key] for key in data if key.startswith(f"{combination['name']}.")}
        settings = {"keep_ratio": combination["retention"], "window_frames": len(tokens), "temperature": temperature}
        pruner = VidCom2Pruner(exact_total=False, **settings)
        torch.testing.assert_close(pruner.frame_scales(closeness(tokens)[0]), wanted["scales"], atol=5e-6, rtol=0)
        kept = pruner(tokens)
        assert [frame.num_tokens for frame in kept] == wanted["budgets"].tolist()
        assert torch.equal(torch.cat([frame.positions for frame in kept]), wanted["kept"].long())
        check_exact(VidCom2Pruner(**settings), tokens, wanted)


def check_exact(pruner, tokens, wanted):
    """With the exact total the scores are the same, and few budgets move by a token or two."""
    kept, offsets = pruner(tokens), wanted["kept_offsets"].tolist()
    assert sum(frame.num_tokens for frame in kept) == len(tokens) * pruner.num_kept(tokens.shape[1])
    for frame, start, stop in zip(kept, offsets, offsets[1:], strict=False):
        released = set(wanted["kept"][start:stop].tolist())
        assert abs(frame.num_tokens - len(released)) <= 2
        both = released & set(frame.positions.tolist())
        assert len(both) == min(len(released), frame.num_tokens)


def stream_with_one_other_frame():
    generator = torch.Generator().manual_seed(0)
    tokens = 1.0 + 0.3 * torch.randn(8, 196, 32, generator=generator)
    tokens[5] -= 0.7
    return [VisualTokens.full(frame, (14, 14), float(f)) for f, frame in enumerate(tokens)]


def test_the_frame_that_stands_out_gets_more():
    counts = [frame.num_tokens for frame in compress(VidCom2Pruner(budget=64), stream_with_one_other_frame())]
    assert sum(counts) == 8 * 64 and counts.index(max(counts)) == 5 and max(counts) > 100
    even = compress(VidCom2Pruner(budget=64, temperature=1e6), stream_with_one_other_frame())
    assert {frame.num_tokens for frame in even} == {64}


def test_each_frame_keeps_a_token_and_none_more_than_it_has():
    for budget in (1, 2, 190):
        counts = [frame.num_tokens for frame in compress(VidCom2Pruner(budget=budget), stream_with_one_other_frame())]
        assert sum(counts) == 8 * budget and min(counts) >= 1 and max(counts) <= 196


def test_a_window_of_one_frame_keeps_the_budget(frames):
    pruner = VidCom2Pruner(budget=64, window_frames=1)
    assert {frame.num_tokens for frame in compress(pruner, frames)} == {64}
    assert pruner.max_kept(196) == 64 and VidCom2Pruner(budget=64).max_kept(196) == 196


@pytest.mark.parametrize(
    ("quotas", "total", "most", "expected"),
    [
        ([10.4, 10.4, 10.2], 31, 20, [11, 10, 10]),
        ([10.6, 10.6, 10.8], 32, 20, [11, 11, 10]),
        ([0.0, 0.0, 9.0], 9, 9, [1, 1, 7]),
        ([50.0, 1.0, 1.0], 30, 20, [20, 5, 5]),
    ],
)
def test_apportion(quotas, total, most, expected):
    counts = apportion(quotas, total, most)
    assert sum(counts) == total and min(counts) >= 1 and max(counts) <= most
    assert sorted(counts) == sorted(expected)


def test_released_rounding_counts_as_another_setting():
    """A share that gives no whole number of tokens has its own results there, and only there."""
    assert VidCom2Pruner(keep_ratio=0.15).answer_settings().get("share") is None
    assert VidCom2Pruner(keep_ratio=0.15, exact_total=False).answer_settings()["share"] == 0.15


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"temperature": 0.0}, "pruner.temperature=0.0"), ({"window_frames": 0}, "pruner.window_frames=0")],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        VidCom2Pruner(**settings)

"""DyCoke, DTD and DART: what they compare, and how the budget is met."""

from __future__ import annotations

import pytest
import torch
from pruner_streams import compress, contexts, positions
from torch.nn.functional import cosine_similarity

from stc_lab.pruners.dart import DARTPruner
from stc_lab.pruners.dtd import DTDPruner
from stc_lab.pruners.dycoke import DyCokePruner
from stc_lab.types import VisualTokens


def least_like(frame, other, count):
    similarity = cosine_similarity(frame.tokens, other.tokens, dim=-1)
    return similarity.topk(count, largest=False).indices.sort().values


def still(frames, changed=None):
    """The first frame again and again; ``changed`` maps a frame's number to the tokens that differ in it."""
    tokens = frames[0].tokens.expand(len(frames), -1, -1).clone()
    generator = torch.Generator().manual_seed(3)
    for f, where in (changed or {}).items():
        tokens[f, where] += torch.randn(len(tokens[f, where]), 32, generator=generator)
    return [VisualTokens.full(frame, (14, 14), float(f)) for f, frame in enumerate(tokens)]


def test_dycoke_keeps_an_anchor_and_what_differs_from_it(frames):
    """At 64 tokens: 196 and 20, 20, 20, as upstream keeps them at a merging ratio of about 0.9."""
    kept = positions(compress(DyCokePruner(budget=64), frames[:4]))
    assert torch.equal(kept[0], torch.arange(196))
    for frame, compared_with in ((1, 0), (2, 0), (3, 2)):
        assert torch.equal(kept[frame], least_like(frames[frame], frames[compared_with], 20))


@pytest.mark.parametrize(
    ("budget", "counts"),
    [(64, [196, 20, 20, 20]), (98, [196, 66, 65, 65]), (49, [160, 12, 12, 12]), (16, [52, 4, 4, 4]), (1, [1] * 4)],
)
def test_dycoke_divides_the_budget_of_a_group(frames, budget, counts):
    assert [frame.num_tokens for frame in compress(DyCokePruner(budget=budget), frames[:4])] == counts


@pytest.mark.parametrize(
    ("num_frames", "counts"), [(1, [64]), (2, [112, 16]), (3, [160, 16, 16]), (5, [196, 20, 20, 20, 64])]
)
def test_dycoke_on_a_group_that_a_question_cut_short(frames, num_frames, counts):
    assert [frame.num_tokens for frame in compress(DyCokePruner(budget=64), frames[:num_frames])] == counts


def test_dycoke_never_keeps_more_than_it_says(frames):
    for budget in (1, 16, 49, 64, 196):
        pruner = DyCokePruner(budget=budget)
        for size in range(1, 5):
            assert max(frame.num_tokens for frame in compress(pruner, frames[:size])) <= pruner.max_kept(196)


def test_dtd_keeps_what_changed_since_the_frame_before(frames):
    kept = positions(compress(DTDPruner(budget=33), frames))
    for f in range(1, len(frames)):
        assert torch.equal(kept[f], least_like(frames[f], frames[f - 1], 33))


def test_dtd_compares_with_the_whole_frame_before(frames):
    """Also across calls, and where the frame before lost the tokens in question."""
    pruner = DTDPruner(budget=20)
    stream, state = still(frames, {4: slice(60, 80)}), pruner.new_state()
    kept = [compress(pruner, [frame], state)[0].positions for frame in stream]
    assert torch.equal(kept[4], torch.arange(60, 80))
    assert torch.equal(kept[5], torch.arange(60, 80))  # back to what it was


def test_dtd_gives_frames_with_more_change_more(frames):
    stream = still(frames, {3: slice(0, 150), 5: slice(0, 10)})
    pruner = DTDPruner(budget=40, window_frames=8)
    counts = [frame.num_tokens for frame in compress(pruner, stream)]
    assert sum(counts) == 8 * 40 and counts[0] == 40
    assert counts[3] > 100 and counts[4] > 100 and min(counts) == 1  # frame 4 goes back, frames 1 and 2 are still


def test_dtd_spreads_the_first_frame_evenly(frames):
    (first,) = compress(DTDPruner(budget=49), frames[:1])
    rows = torch.bincount(first.positions // 14, minlength=14)
    assert rows.tolist() == [0, 7] * 7


def test_dtd_starts_anew_when_frames_change_size(frames):
    pruner = DTDPruner(budget=9)
    state = pruner.new_state()
    pruner.compress(frames[:2], state)
    small = [VisualTokens.full(frame.tokens[:36], (6, 6), 9.0) for frame in frames[2:4]]
    kept = positions(pruner.compress(small, state))
    assert (kept[0] // 6).unique().numel() == 3
    assert torch.equal(kept[1], least_like(small[1], small[0], 9))


def test_dart_keeps_the_pivots_and_what_is_least_like_them(frames):
    frame, (context,) = frames[0], contexts(frames[:1])
    pivots = context.keys.flatten(1).abs().sum(1).topk(4).indices.tolist()
    free, expected = set(range(196)) - set(pivots), set(pivots)
    for pivot, quota in zip(pivots, (8, 7, 7, 7), strict=True):
        similarity = cosine_similarity(frame.tokens[pivot], frame.tokens, dim=-1)
        added = sorted(free, key=lambda token: float(similarity[token]))[:quota]
        expected |= set(added)
        free -= set(added)
    (kept,) = compress(DARTPruner(budget=33), [frame])
    assert set(kept.positions.tolist()) == expected


def test_dart_drops_copies_of_a_pivot(frames):
    """Ten copies of the longest token: one stays."""
    tokens = frames[0].tokens.clone()
    tokens[50:60] = 3 * tokens[50] / tokens[50].norm() * tokens.norm(dim=-1).max()
    kept = DARTPruner(budget=64, pivots="tokens", num_pivots=1)(tokens)
    assert ((kept.positions >= 50) & (kept.positions < 60)).sum() == 1


def test_dart_without_keys_needs_tokens_alone(frames):
    pruner = DARTPruner(budget=3, pivots="tokens")
    assert not pruner.needs and DARTPruner().needs == {"keys"}
    longest = frames[0].tokens.abs().sum(1).topk(3).indices.sort().values
    assert torch.equal(pruner(frames[0].tokens).positions, longest)


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (DARTPruner, {"num_pivots": 0}, "pruner.num_pivots=0"),
        (DARTPruner, {"pivots": "values"}, "pruner.pivots=values.*keys, tokens"),
        (DTDPruner, {"window_frames": 0}, "pruner.window_frames=0"),
    ],
)
def test_mistakes_are_named(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)

"""A stream that does not end on Dispider: clips are remembered at the same price each."""

from __future__ import annotations

import numpy as np
import pytest

from stc_lab.bench.endless import Lane, run_endless
from stc_lab.bench.formulas import predicted
from stc_lab.cachers import STCCacher
from stc_lab.pruners.stc import STCPruner

CLIP_FRAMES, KEPT = 4, 3
KEPT_BYTES, STATE_BYTES = CLIP_FRAMES * KEPT * 32 * 4, (CLIP_FRAMES + 1) * 24 * 4
"""Of a clip: tokens of the large model (width 32), and states of the compressor (width 24), float32."""


@pytest.fixture
def clip(frames: list[np.ndarray]) -> list[np.ndarray]:
    return [*frames, *frames[3:9]]


def check(dispider, clip: list[np.ndarray], num_frames: int) -> None:
    methods = STCCacher(), STCPruner(budget=KEPT)
    result = run_endless(dispider.model, *methods, dispider.memory, clip, num_frames=num_frames, fps=1.0)
    assert result.misses == []
    num_clips = num_frames // CLIP_FRAMES
    stats = result.checkpoints[-1].stats
    assert stats["num_blocks"] == num_clips and stats["num_tokens"] == num_frames * KEPT
    device, host = (num_clips * STATE_BYTES, num_clips * KEPT_BYTES)
    assert (stats["kv_bytes_device"], stats["kv_bytes_host"]) == (device, host)
    assert result.frame.ratio > 0


@pytest.mark.slow
def test_two_thousand_frames(new_dispider, clip: list[np.ndarray]) -> None:
    check(new_dispider(clip_frames=CLIP_FRAMES, offload=True), clip, 2000)


@pytest.mark.parametrize("offload", [False, True])
def test_the_formula_holds_from_the_first_frame_on(new_dispider, clip: list[np.ndarray], offload: bool) -> None:
    setup = new_dispider(clip_frames=CLIP_FRAMES, offload=offload)
    lane = Lane(setup.open(STCCacher(), STCPruner(budget=KEPT)), clip, 1.0)
    for num_frames in range(1, 14):
        lane.push(1)
        sizes = predicted(setup.memory, setup.model, num_frames, KEPT)
        assert sizes.misses(lane.session.stats()) == [] and sizes.device.is_exact and sizes.host.is_exact


def test_scenes_have_no_formula(new_dispider) -> None:
    with pytest.raises(ValueError, match=r"memory\.clips=scenes"):
        setup = new_dispider(clips="scenes")
        predicted(setup.memory, setup.model, 8, KEPT)

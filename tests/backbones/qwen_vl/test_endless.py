"""Streams that go on: StreamingVLM in constant memory, LiveCC growing by as much as every turn brings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stc_lab.backbones.livecc import LiveCC
from stc_lab.backbones.qwen_vl.backbone import QwenVL
from stc_lab.backbones.streamingvlm import StreamingVLM
from stc_lab.bench.endless.formulas import predicted
from stc_lab.bench.endless.run import Endless, Lane, run_endless
from stc_lab.cachers import STCCacher
from stc_lab.pruners.uniform import UniformPruner

WINDOWS = {"vision_window_s": 3, "text_window_s": 2, "text_sink": 4, "text_window": 6}
KEPT = 3
KEYS_OF_A_TOKEN = 2 * 16 * 4
"""Bytes: two layers with one head of 16, float32."""


def run(model: QwenVL, clip: list[np.ndarray], num_frames: int) -> Endless:
    tokens = model.view(*clip[0].shape[:2]).tokens_per_frame
    cacher, pruner, fps = STCCacher(), UniformPruner(budget=KEPT), model.options.fps
    return run_endless(
        model, cacher, pruner, clip[:20], num_frames=num_frames, fps=fps, tokens_per_frame=tokens
    )


def check_constant(folder: Path, clip: list[np.ndarray], num_frames: int) -> None:
    model = StreamingVLM(str(folder), commentary_tokens=4, dtype="float32", **WINDOWS)
    result = run(model, clip, num_frames)
    assert result.misses == []
    stats = [checkpoint.stats for checkpoint in result.checkpoints]
    bound = model.most_tokens(KEPT, num_frames)
    assert all(0.7 * bound < s["num_tokens"] <= bound for s in stats[2:])  # it is not far from what is kept
    assert all(s["kv_bytes_device"] == s["num_tokens"] * 3 * KEYS_OF_A_TOKEN for s in stats)
    assert stats[-1]["kv_bytes_reserved"] == stats[4]["kv_bytes_reserved"]
    assert result.frame.ratio > 0


def check_linear(folder: Path, clip: list[np.ndarray], num_frames: int) -> None:
    """Silent, so that every turn is as long as the next but for the digits of its time."""
    model = LiveCC(str(folder), commentary=False, dtype="float32")
    result = run(model, clip, num_frames)
    assert result.misses == [] and all(c.sizes.device.is_exact for c in result.checkpoints)
    stats = [checkpoint.stats for checkpoint in result.checkpoints]
    assert all(s["kv_bytes_device"] == s["num_tokens"] * 2 * KEYS_OF_A_TOKEN for s in stats)
    steps = np.diff([s["num_tokens"] for s in stats])
    assert 0 < steps.max() < 1.06 * steps.min()


def test_streamingvlm_does_not_grow(tiny_folders: dict[str, Path], clip: list[np.ndarray]) -> None:
    check_constant(tiny_folders["streamingvlm"], clip, 200)


@pytest.mark.slow
def test_two_thousand_frames_on_streamingvlm(tiny_folders: dict[str, Path], clip: list[np.ndarray]) -> None:
    check_constant(tiny_folders["streamingvlm"], clip, 2000)


@pytest.mark.slow
def test_two_thousand_frames_on_livecc(tiny_folders: dict[str, Path], clip: list[np.ndarray]) -> None:
    check_linear(tiny_folders["livecc"], clip, 2000)


@pytest.mark.parametrize("windows", [(3, 2), (2, 3), (2, 2), (1, 4)], ids=str)
@pytest.mark.parametrize("commentary", [False, True])
def test_windows_hold_what_the_formula_says(
    tiny_folders: dict[str, Path], clip: list[np.ndarray], windows: tuple[int, int], commentary: bool
) -> None:
    vision, text = windows
    changes = {"vision_window_s": vision, "text_window_s": text, "commentary": commentary, "commentary_tokens": 3}
    model = StreamingVLM(str(tiny_folders["streamingvlm"]), dtype="float32", **{**WINDOWS, **changes})
    lane = Lane(model.open(STCCacher(), UniformPruner(budget=KEPT)), clip, 2.0)
    for num_frames in range(1, 24):
        lane.push(1)
        sizes = predicted(model, num_frames, KEPT)
        assert sizes.misses(lane.session.stats()) == [] and (commentary or sizes.tokens.is_exact)


def test_the_previous_text_is_one_span(tiny_folders: dict[str, Path], clip: list[np.ndarray]) -> None:
    """However many answers moved there: the work of a round must not depend on where its tokens came from."""
    windows = {**WINDOWS, "text_sink": 40, "text_window": 40}
    session = StreamingVLM(str(tiny_folders["streamingvlm"]), commentary_tokens=2, dtype="float32", **windows).open(
        STCCacher(), UniformPruner(budget=KEPT)
    )
    lane, lengths = Lane(session, clip, 2.0), []
    for _ in range(4):
        lane.push(10)
        lengths.append([len(span.ids) for span in session._memory.scroll.spans if span.kind == "previous.text"])
    assert all(len(spans) == 1 for spans in lengths) and lengths[-1][0] > lengths[0][0]


@pytest.mark.parametrize("commentary", [False, True])
def test_livecc_grows_by_its_turns(
    tiny_folders: dict[str, Path], clip: list[np.ndarray], commentary: bool
) -> None:
    """By as much as the formula says, to the token where the model is silent."""
    model = LiveCC(str(tiny_folders["livecc"]), commentary=commentary, commentary_tokens=3, dtype="float32")
    lane = Lane(model.open(STCCacher(), UniformPruner(budget=KEPT)), clip, 2.0)
    for num_frames in range(1, 24):
        lane.push(1)
        sizes = predicted(model, num_frames, KEPT)
        assert sizes.misses(lane.session.stats()) == [] and (commentary or sizes.tokens.is_exact)

"""Streams that go on: StreamingVLM in constant memory, LiveCC growing by as much as every turn brings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stc_lab.bench.endless import Endless, Lane, run_endless
from stc_lab.bench.formulas import Sizes, predicted
from stc_lab.cachers import STCCacher
from stc_lab.pruners.uniform import UniformPruner

WINDOWS = {"vision_window_s": 3, "text_window_s": 2, "text_sink": 4, "text_window": 6}
KEPT = 3
KEYS_OF_A_TOKEN = 2 * 16 * 4
"""Bytes: two layers with one head of 16, float32."""


@pytest.fixture
def opened(tiny_folders: dict[str, Path], on_memory: Callable) -> Callable:
    """A model with its own memory, by name and settings; the session is opened with STC-Cacher and even pruning."""

    def make(name: str, **settings):
        return on_memory(name, tiny_folders[name], None, **settings)

    return make


def lane_of(made, clip: list[np.ndarray]) -> Lane:
    return Lane(made.open(STCCacher(), UniformPruner(budget=KEPT)), clip, 2.0)


def misses(lane: Lane) -> tuple[list[str], Sizes]:
    sizes = predicted(lane.session.settings, lane.session.model, lane.num_frames, KEPT)
    return sizes.misses(lane.session.stats()), sizes


def run(made, clip: list[np.ndarray], num_frames: int) -> Endless:
    rows, columns = made.model.encoder(clip[0].shape[:2]).grid
    methods, fps = (STCCacher(), UniformPruner(budget=KEPT)), made.model.settings.fps
    common = {"num_frames": num_frames, "fps": fps, "tokens_per_frame": rows * columns}
    return run_endless(made.model, *methods, made.memory, clip[:20], **common)


def check_constant(opened: Callable, clip: list[np.ndarray], num_frames: int) -> None:
    made = opened("streamingvlm", commentary_tokens=4, **WINDOWS)
    result = run(made, clip, num_frames)
    assert result.misses == []
    stats = [checkpoint.stats for checkpoint in result.checkpoints]
    bound = result.checkpoints[-1].sizes.tokens.high
    assert all(0.7 * bound < s["num_tokens"] <= bound for s in stats[2:])  # it is not far from what is kept
    assert all(s["kv_bytes_device"] == s["num_tokens"] * 3 * KEYS_OF_A_TOKEN for s in stats)
    assert stats[-1]["kv_bytes_reserved"] == stats[4]["kv_bytes_reserved"]
    assert result.frame.ratio > 0


def check_linear(opened: Callable, clip: list[np.ndarray], num_frames: int) -> None:
    """Silent, so that every turn is as long as the next but for the digits of its time."""
    result = run(opened("livecc", commentary=False), clip, num_frames)
    assert result.misses == [] and all(c.sizes.device.is_exact for c in result.checkpoints)
    stats = [checkpoint.stats for checkpoint in result.checkpoints]
    assert all(s["kv_bytes_device"] == s["num_tokens"] * 2 * KEYS_OF_A_TOKEN for s in stats)
    steps = np.diff([s["num_tokens"] for s in stats])
    assert 0 < steps.max() < 1.06 * steps.min()


def test_streamingvlm_does_not_grow(opened: Callable, clip: list[np.ndarray]) -> None:
    check_constant(opened, clip, 200)


@pytest.mark.slow
def test_two_thousand_frames_on_streamingvlm(opened: Callable, clip: list[np.ndarray]) -> None:
    check_constant(opened, clip, 2000)


@pytest.mark.slow
def test_two_thousand_frames_on_livecc(opened: Callable, clip: list[np.ndarray]) -> None:
    check_linear(opened, clip, 2000)


@pytest.mark.parametrize("windows", [(3, 2), (2, 3), (2, 2), (1, 4)], ids=str)
@pytest.mark.parametrize("commentary", [False, True])
def test_windows_hold_what_the_formula_says(
    opened: Callable, clip: list[np.ndarray], windows: tuple[int, int], commentary: bool
) -> None:
    vision, text = windows
    changes = {"vision_window_s": vision, "text_window_s": text, "commentary": commentary, "commentary_tokens": 3}
    lane = lane_of(opened("streamingvlm", **{**WINDOWS, **changes}), clip)
    for _ in range(1, 24):
        lane.push(1)
        wrong, sizes = misses(lane)
        assert wrong == [] and (commentary or sizes.tokens.is_exact)


def test_the_previous_text_is_one_span(opened: Callable, clip: list[np.ndarray]) -> None:
    """However many answers moved there: the work of a round must not depend on where its tokens came from."""
    windows = {**WINDOWS, "text_sink": 40, "text_window": 40}
    lane, lengths = lane_of(opened("streamingvlm", commentary_tokens=2, **windows), clip), []
    for _ in range(4):
        lane.push(10)
        lengths.append([len(span.ids) for span in lane.session.memory.sequence.spans if span.kind == "previous.text"])
    assert all(len(spans) == 1 for spans in lengths) and lengths[-1][0] > lengths[0][0]


@pytest.mark.parametrize("commentary", [False, True])
def test_livecc_grows_by_its_turns(opened: Callable, clip: list[np.ndarray], commentary: bool) -> None:
    """By as much as the formula says, to the token where the model is silent."""
    lane = lane_of(opened("livecc", commentary=commentary, commentary_tokens=3), clip)
    for _ in range(1, 24):
        lane.push(1)
        wrong, sizes = misses(lane)
        assert wrong == [] and (commentary or sizes.tokens.is_exact)

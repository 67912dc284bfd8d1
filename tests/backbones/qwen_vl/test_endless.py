"""Streams that go on: StreamingVLM in constant memory, LiveCC growing by as much as every turn brings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stc_lab.backbones.livecc import LiveCC
from stc_lab.backbones.streamingvlm import StreamingVLM
from stc_lab.cachers import STCCacher
from stc_lab.pruners.uniform import UniformPruner

WINDOWS = {"vision_window_s": 3, "text_window_s": 2, "text_sink": 4, "text_window": 6}
SIZE_OF_A_TOKEN = 3 * 2 * 16 * 4
"""Keys, rotated keys and values of two layers with one head of 16, float32."""


def run(session, clip: list[np.ndarray], num_frames: int) -> list[dict]:
    """Per second: sizes, and the FLOPs of reading it."""
    rows = []
    for index in range(num_frames):
        for report in session.push([clip[index % len(clip)]], [0.5 * index]):
            rows.append({**session.stats(), "prefill": report.flops["prefill"]})
    return rows


def check_constant(folder: Path, clip: list[np.ndarray], num_frames: int) -> None:
    model = StreamingVLM(str(folder), commentary_tokens=4, dtype="float32", **WINDOWS)
    session = model.open(STCCacher(), UniformPruner(budget=3))
    rows = run(session, clip, num_frames)
    half = len(rows) // 2
    bound = model.most_tokens(3, len(rows))
    assert all(row["num_tokens"] <= bound for row in rows)
    assert max(row["num_tokens"] for row in rows[half:]) > 0.8 * bound  # it is not far from what is kept
    assert all(row["kv_bytes_device"] == row["num_tokens"] * SIZE_OF_A_TOKEN for row in rows)
    assert rows[-1]["kv_bytes_reserved"] == rows[half]["kv_bytes_reserved"]
    assert len(session._memory.scroll.spans) < 80
    early, late = (np.mean([row["prefill"] for row in part]) for part in (rows[half // 2 : half], rows[-half // 2 :]))
    assert late == pytest.approx(early, rel=0.05)


def check_growth(folder: Path, clip: list[np.ndarray], num_frames: int) -> None:
    """Silent, so that every turn is as long as the next but for the digits of its time."""
    model = LiveCC(str(folder), commentary=False, dtype="float32")
    session = model.open(STCCacher(), UniformPruner(budget=3))
    rows = run(session, clip, num_frames)
    for start_s in range(3, len(rows) - 1):
        turn = f" ...<|im_end|>\n<|im_start|>user\nTime={start_s}.0-{start_s + 1}.0s<|vision_start|><|vision_end|>"
        added = 3 + len(model.loaded.token_ids(turn + "<|im_end|>\n<|im_start|>assistant\n"))
        assert rows[start_s]["num_tokens"] - rows[start_s - 1]["num_tokens"] == added
    assert rows[-2]["prefill"] > rows[len(rows) // 2]["prefill"] > rows[4]["prefill"]
    assert rows[-1]["kv_bytes_device"] == rows[-1]["num_tokens"] * 2 * 2 * 16 * 4


def test_streamingvlm_does_not_grow(tiny_folders: dict[str, Path], clip: list[np.ndarray]) -> None:
    check_constant(tiny_folders["streamingvlm"], clip, 60)


def test_livecc_grows_by_its_turns(tiny_folders: dict[str, Path], clip: list[np.ndarray]) -> None:
    check_growth(tiny_folders["livecc"], clip, 40)


@pytest.mark.slow
def test_two_thousand_frames(tiny_folders: dict[str, Path], clip: list[np.ndarray]) -> None:
    check_constant(tiny_folders["streamingvlm"], clip, 2000)
    check_growth(tiny_folders["livecc"], clip, 2000)

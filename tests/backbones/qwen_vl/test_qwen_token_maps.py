"""Pairs of frames are drawn once each, also where a question looks at half a pair before it is complete."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stc_lab.cachers.stc import STCCacher
from stc_lab.pruners.stc import STCPruner
from stc_lab.token_maps import Collector
from stc_lab.types import Question


@pytest.mark.parametrize("backbone", ["livecc", "streamingvlm"])
def test_maps_have_a_frame_for_every_report(
    backbone: str, tiny_folders: dict[str, Path], on_memory: Callable, clip: list[np.ndarray]
) -> None:
    model = on_memory(backbone, tiny_folders[backbone], commentary_tokens=2)
    session, sink = model.open(STCCacher(interval=3), STCPruner(budget=4)), Collector()
    session.observe_with(sink)
    reports = session.push(clip[:7], [0.5 * index for index in range(7)])
    session.ask(Question("q", 3.0, "What moves?", ("a dot", "a square"), "B"))
    reports += session.push(clip[7:9], [3.5, 4.0])
    reports += session.finish()
    frames = sink.frames()
    assert [frame.time_s for frame in frames] == [report.timestamp_s for report in reports]
    assert [frame.tokens.num_kept for frame in frames] == [report.num_tokens for report in reports]
    assert frames[0].tokens.fates.shape == frames[0].tower.computed.shape == (2, 3)
    drawn = [float(frame.tower.computed.mean()) for frame in frames]
    assert drawn == pytest.approx([report.update_ratio for report in reports])

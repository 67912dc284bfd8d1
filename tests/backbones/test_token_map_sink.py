"""A session tells its observer what becomes of each frame, and works the same with or without one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stc_lab.backbones.streamforest import StreamForest
from stc_lab.cachers.base import Cacher
from stc_lab.cachers.frame_reuse import FrameReuseCacher
from stc_lab.cachers.none import NoCacher
from stc_lab.cachers.stc import STCCacher
from stc_lab.cachers.tome import ToMeCacher
from stc_lab.memories.streamforest import StreamForestMemory
from stc_lab.pruners.base import Pruner
from stc_lab.pruners.downsample import DownsamplePruner
from stc_lab.pruners.dycoke import DyCokePruner
from stc_lab.pruners.none import NoPruner
from stc_lab.pruners.random import RandomPruner
from stc_lab.pruners.recent import RecentPruner
from stc_lab.pruners.stc import STCPruner
from stc_lab.pruners.visionzip import VisionZipPruner
from stc_lab.session import StreamSession
from stc_lab.token_maps import Collector
from stc_lab.token_maps.collector import Fate
from stc_lab.types import Question

METHODS = {
    "stc": (STCCacher(interval=4, chunk_size=2), STCPruner(budget=3)),
    "waiting": (NoCacher(), DyCokePruner(budget=4)),
    "recent": (STCCacher(threshold=0.9), RecentPruner(budget=2, window_frames=5)),
    "merging": (FrameReuseCacher(), VisionZipPruner(budget=4, contextual_ratio=0.5)),
    "pooling": (NoCacher(), DownsamplePruner(budget=4)),
    "tower merging": (ToMeCacher(num_tokens=8), RandomPruner(budget=2)),
    "merged tokens": (ToMeCacher(num_tokens=8, output="merged"), RandomPruner(budget=5)),
    "nothing": (NoCacher(), NoPruner()),
}


@pytest.mark.parametrize("name", METHODS)
def test_what_is_drawn_is_what_was_remembered(
    name: str, backbone, video: list[np.ndarray], question: Question
) -> None:
    cacher, pruner = METHODS[name]
    session, sink, remembered = backbone.open(cacher, pruner), Collector(), []
    session.observe_with(sink)
    inner = session.memory.remember
    session.memory.remember = lambda frames: [remembered.extend(frames), inner(frames)][1]
    session.push(video[:6], [float(number) for number in range(6)])
    session.flush()
    maps = sink.frames()
    assert [frame.time_s for frame in maps] == [float(number) for number in range(6)]
    for frame, tokens in zip(maps, remembered, strict=True):
        assert frame.tokens.num_kept == tokens.num_tokens
        is_kept = np.isin(frame.tokens.fates, (Fate.KEPT, Fate.JOINED))
        if name == "merged tokens":
            kept = np.isin(frame.tower.groups, tokens.positions.numpy())
            assert (is_kept == kept).all() and frame.tower.num_groups == 8
        else:
            assert np.flatnonzero(is_kept).tolist() == sorted(tokens.positions.tolist())


def test_shares_are_those_of_the_reports(backbone, video: list[np.ndarray]) -> None:
    session, sink = backbone.open(STCCacher(interval=3), STCPruner(budget=3)), Collector()
    session.observe_with(sink)
    reports = session.push(video[:5], [float(number) for number in range(5)])
    drawn = [float(frame.tower.computed.mean()) for frame in sink.frames()]
    assert drawn == pytest.approx([report.update_ratio for report in reports])
    assert min(drawn) < 0.5 and drawn.count(1.0) == 2


@pytest.mark.parametrize("methods", [METHODS["stc"], METHODS["waiting"]])
def test_a_sink_changes_nothing_and_goes_with_the_stream(
    methods: tuple[Cacher, Pruner], backbone, video: list[np.ndarray], question: Question
) -> None:
    answers, sink = [], Collector(most_frames=4)
    for is_shown in (False, True):
        session = backbone.open(*methods)
        if is_shown:
            session.observe_with(sink)
        session.push(video[:7], [float(number) for number in range(7)])
        assert all((pending.note is None) or is_shown for pending in session._pending)
        answers.append(session.ask(question).letter_logits)
        session.flush()
        session.close()
    assert answers[0] == answers[1]
    assert len(sink.frames()) == 4
    session.reset()
    session.push(video[:1], [0.0])
    session.flush()
    assert len(sink.frames()) == 4


def test_a_backbone_that_prunes_its_memory_has_no_token_cells(forest_folder: Path, video: list[np.ndarray]) -> None:
    memory = StreamForestMemory(short_frames=3, split_window=2, event_tokens=4, quota=12)
    model = StreamForest(checkpoint=str(forest_folder), tokens_per_frame=8).load(dtype=torch.float32)
    session = StreamSession(model, STCCacher(), STCPruner(budget=4), memory)
    sink = Collector()
    session.observe_with(sink)
    session.push(video[:3], [0.0, 1.0, 2.0])
    assert [frame.tokens for frame in sink.frames()] == [None] * 3


def test_the_sliding_window_shows_its_frames(new_recent, video: list[np.ndarray]) -> None:
    session = new_recent().open(NoCacher(), STCPruner(budget=4))
    sink = Collector()
    session.observe_with(sink)
    session.push(video[:6], [float(number) for number in range(6)])
    assert [frame.tokens.num_kept for frame in sink.frames()] == [4] * 6

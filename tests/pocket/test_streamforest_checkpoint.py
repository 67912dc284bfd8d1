"""The shipped StreamForest: small, in the official layout, and far above chance on the real path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stc_lab.api import open_session
from stc_lab.backbones.checkpoints import POCKET_ROOT
from stc_lab.backbones.streamforest import StreamForest
from stc_lab.backbones.streamforest.model import StreamForestVideoModel
from stc_lab.cachers.base import Cacher
from stc_lab.cachers.none import NoCacher
from stc_lab.cachers.stc import STCCacher
from stc_lab.memories.streamforest import StreamForestMemory
from stc_lab.pocket.dataset import ensure_streams
from stc_lab.pruners.stc import STCPruner
from stc_lab.training.models.streamforest import POCKET_SIZES
from stc_lab.types import Stream
from stc_lab.video import open_video

FOLDER = POCKET_ROOT / "streamforest"


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> list[Stream]:
    """Two short streams that nobody trained on."""
    return ensure_streams(tmp_path_factory.mktemp("dev"), "dev", 2)


@pytest.fixture(scope="module")
def backbone() -> StreamForestVideoModel:
    return StreamForest().load(dtype=torch.float32)


def test_it_is_small_and_brings_its_sizes(backbone: StreamForestVideoModel):
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 10e6
    sizes = StreamForestMemory().sizes(backbone.facts)
    assert {name: getattr(sizes, name) for name in POCKET_SIZES} == POCKET_SIZES
    assert (sizes.now_tokens, sizes.short_tokens, sizes.event_tokens) == (729, 128, 64)


@pytest.mark.slow
def test_it_answers_held_out_streams_from_a_part_of_its_memory(backbone, streams):
    """A guard against a broken checkpoint, far below what it reaches (see docs/pocket.md), far above chance."""
    plain, cached = (answered(backbone, *pair) for pair in zip((NoCacher(), STCCacher()), streams, strict=True))
    assert len(plain + cached) == 24 and np.mean(plain + cached) > 0.55


def answered(backbone: StreamForestVideoModel, cacher: Cacher, stream: Stream) -> list[bool]:
    """Which questions of ``stream`` are answered right, each at its time, an eighth of the memory before its eyes."""
    with open_video(Path(stream.video), in_process=True) as video:
        frames = [frame.pixels for frame in video]
    session, pushed, right = open_session(backbone, cacher, STCPruner(budget=16), StreamForestMemory()), 0, []
    for question in stream.questions:
        seen = int(question.time_s) + 1
        session.push(frames[pushed:seen], list(map(float, range(pushed, seen))))
        pushed = max(pushed, seen)
        right.append(session.ask(question).prediction == question.answer)
    return right

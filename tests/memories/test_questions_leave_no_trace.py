"""A stream that is asked goes on, bit for bit, like one that is not: every memory on every model that takes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from stc_lab.backbones.base import VideoModel
from stc_lab.cachers.stc import STCCacher
from stc_lab.memories.all import All
from stc_lab.memories.base import Memory
from stc_lab.memories.dispider import DispiderMemory
from stc_lab.memories.livecc import LiveCC
from stc_lab.memories.oneshot import OneShot
from stc_lab.memories.recent import Recent
from stc_lab.memories.rekv import ReKV
from stc_lab.memories.streamforest import StreamForestMemory
from stc_lab.memories.streamingvlm import StreamingVLM
from stc_lab.pruners.base import Pruner
from stc_lab.pruners.dycoke import DyCokePruner
from stc_lab.pruners.none import NoPruner
from stc_lab.pruners.stc import STCPruner
from stc_lab.pruners.vidcom2 import VidCom2Pruner
from stc_lab.session import StreamSession
from stc_lab.types import Answer, FrameReport, Question

# Small enough that frames leave windows, are merged, evicted and retrieved within the few frames of a test.
MEMORIES: dict[str, Memory] = {
    "rekv": ReKV(n_local=48, topk=4),
    "recent": Recent(num_frames=3),
    "recent_budget": Recent(budget=20),
    "all": All(),
    "oneshot": OneShot(max_frames=8),
    "livecc": LiveCC(commentary_tokens=3),
    "streamingvlm": StreamingVLM(
        commentary_tokens=3, round_s=2, vision_window_s=4, text_window_s=6, text_sink=4, text_window=6
    ),
    "streamforest": StreamForestMemory(short_frames=3, split_window=2, event_tokens=4, quota=12),
    "streamforest_lazy": StreamForestMemory(short_frames=3, split_window=2, event_tokens=4, quota=12, mode="lazy"),
    "dispider": DispiderMemory(),
}
PLAIN = ("rekv", "recent", "recent_budget", "all", "oneshot")
SPEAKING = ("livecc", "streamingvlm")
ALLOWED: dict[str, tuple[str, ...]] = {
    "llava_onevision": PLAIN,
    "qwen2_vl": (*PLAIN, *SPEAKING),
    "qwen2_5_vl": (*PLAIN, *SPEAKING),
    "livecc": ("livecc", "oneshot"),
    "streamingvlm": ("streamingvlm", "oneshot"),
    "streamforest": ("streamforest", "streamforest_lazy"),
    "dispider": ("dispider",),
}
PRUNERS: dict[str, Pruner] = {
    "none": NoPruner(),
    "stc": STCPruner(keep_ratio=0.5, window=2),
    "vidcom2": VidCom2Pruner(keep_ratio=0.5, window_frames=3),
    "dycoke": DyCokePruner(keep_ratio=0.5),
}
PAIRS = [
    pytest.param(model, memory, id=f"{model}-{memory}") for model, memories in ALLOWED.items() for memory in memories
]
CACHER = STCCacher(interval=3, update_ratio=0.3)

CHOICE = Question("choice", 3.0, "What moves?", ("a dot", "a square", "a line"), "B")
OPEN = Question("open", 5.0, "What is there to see?")
ASKED_AFTER = {5: CHOICE, 7: OPEN, 11: CHOICE}
"""Frames after which questions come, also in the middle of a turn and of a clip. With odd numbers a frame waits for its
partner where a tower takes pairs, and pruners that look at three or four frames together have some of them, whether
frames are paired or not."""
SECONDS_A_FRAME = 0.5


@dataclass
class Run:
    """All that can be seen of a stream from outside, times and spare room of buffers left out."""

    reports: list[FrameReport] = field(default_factory=list)
    stats: list[dict[str, int]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    num_waiting: list[int] = field(default_factory=list)


def untimed(reports: Sequence[FrameReport]) -> list[FrameReport]:
    return [replace(report, latency_ms={}) for report in reports]


def stats_of(session: StreamSession) -> dict[str, int]:
    """Without the room that buffers have in reserve, which grows with the longest sequence there was."""
    return {key: value for key, value in session.stats().items() if key != "kv_bytes_reserved"}


def run(
    model: VideoModel, memory: Memory, pruner: Pruner, frames: Sequence[np.ndarray], asked: dict[int, Question]
) -> Run:
    """A stream of ``frames`` with the questions ``asked`` after so many of them, and two questions at its end."""
    session, seen = StreamSession(model, CACHER, pruner, memory), Run()
    session.shows_features = True
    if session.trigger is not None:
        session.watch(replace(OPEN, question_id="watched"))
    for index, frame in enumerate(frames):
        seen.reports += untimed(session.push([frame], [SECONDS_A_FRAME * index]))
        if (question := asked.get(index + 1)) is not None:
            seen.num_waiting.append(session.stats()["num_pending_frames"])
            session.ask(question)
        seen.stats.append(stats_of(session))
    for question in (CHOICE, OPEN):
        answer = session.ask(question)
        seen.answers.append(replace(answer, ttft_ms=0.0, latency_ms={}))
    seen.reports += untimed(session.finish())
    seen.stats.append(stats_of(session))
    session.close()
    return seen


def require_equal(asked: Run, quiet: Run) -> None:
    assert asked.reports == quiet.reports
    for one, other in zip(asked.reports, quiet.reports, strict=True):
        assert torch.equal(one.features, other.features)
    assert asked.stats == quiet.stats
    assert asked.answers == quiet.answers
    for one, other in zip(asked.answers, quiet.answers, strict=True):
        assert torch.equal(one.first_logits, other.first_logits)


def is_refused(memory: str, pruner: str) -> bool:
    """A forest merges tokens across places and frames, so a pruner that compares places cannot prune it."""
    return memory.startswith("streamforest") and pruner == "dycoke"


@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize(("backbone", "memory"), PAIRS)
def test_later_frames_sizes_and_answers_are_the_same(
    new_model: Callable, tiny_frames: list[np.ndarray], backbone: str, memory: str, pruner: str
) -> None:
    model, settings = new_model(backbone), MEMORIES[memory]
    if is_refused(memory, pruner):
        with pytest.raises(ValueError, match=f"pruner={pruner} needs places of each patch"):
            StreamSession(model, CACHER, PRUNERS[pruner], settings)
        return
    asked = run(model, settings, PRUNERS[pruner], tiny_frames, ASKED_AFTER)
    quiet = run(model, settings, PRUNERS[pruner], tiny_frames, {})
    # Where something can wait for a window or a partner, it did while the questions were asked.
    waits = settings.takes == "tokens" and PRUNERS[pruner].window_frames > 1
    if waits or model.facts.frames_per_patch == 2:
        assert all(asked.num_waiting)
    require_equal(asked, quiet)


@pytest.mark.parametrize("backbone", ALLOWED)
def test_other_pairs_are_refused(new_model: Callable, backbone: str) -> None:
    model = new_model(backbone)
    for name in sorted(MEMORIES.keys() - ALLOWED[backbone]):
        with pytest.raises(ValueError, match=f"memory={MEMORIES[name].name}: "):
            StreamSession(model, CACHER, NoPruner(), MEMORIES[name])


@pytest.mark.parametrize("pruner", ["none", "dycoke"])
@pytest.mark.parametrize("backbone", ["livecc", "qwen2_vl"])
def test_questions_stay_where_the_settings_say_so(
    new_model: Callable, tiny_frames: list[np.ndarray], backbone: str, pruner: str
) -> None:
    model, settings = new_model(backbone), replace(MEMORIES["livecc"], remember_questions=True)
    assert settings.changes_stream and not MEMORIES["livecc"].changes_stream
    asked = run(model, settings, PRUNERS[pruner], tiny_frames, ASKED_AFTER)
    quiet = run(model, settings, PRUNERS[pruner], tiny_frames, {})
    before = min(ASKED_AFTER) - 1
    assert asked.stats[:before] == quiet.stats[:before] and asked.stats[before] != quiet.stats[before]
    assert asked.reports != quiet.reports
    for one, other in zip(asked.answers, quiet.answers, strict=True):
        assert not torch.equal(one.first_logits, other.first_logits)

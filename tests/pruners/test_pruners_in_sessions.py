"""Every pruner with every cacher and chunk size, in a session over a real tower; found from the YAML files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from pruner_streams import CACHERS, METHODS, make
from torch.nn.functional import interpolate
from transformers import SiglipVisionConfig, SiglipVisionModel

from stc_lab.backbones.base import Backbone, VideoModel
from stc_lab.measure import StageTimer
from stc_lab.memories.base import Memory, MemoryState, Model, ModelFacts, PruneOnRead, Query, Reading
from stc_lab.pruners import NoPruner
from stc_lab.session import StreamSession
from stc_lab.types import Question, VisualTokens
from stc_lab.vision import SiglipTower

TOKENS, NUM_FRAMES = 16, 7
CHUNKED = [name for name in CACHERS if hasattr(make(name, "cacher"), "chunk_size")]
RUNS = [(name, size) for name in CACHERS for size in ((1, 2) if name in CHUNKED else (1,))]


@dataclass(frozen=True, kw_only=True)
class Pooling(Backbone):
    """Settings of a model that needs no files."""

    name: str = "pooling"

    def facts(self) -> ModelFacts:
        return ModelFacts("made here", TOKENS, frozenset({"merges_in_tower", "merged_tokens"}))

    def load(self, device=None, dtype=None) -> PoolingModel:
        return PoolingModel(self, self.facts())


class PoolingModel(VideoModel):
    """A tiny SigLIP tower whose 8x8 patches are pooled to 4x4 tokens, and no language model."""

    def __init__(self, settings: Pooling, facts: ModelFacts) -> None:
        super().__init__(settings, facts)
        torch.manual_seed(0)
        sizes = dict(hidden_size=16, intermediate_size=24, num_attention_heads=2, num_hidden_layers=3)
        config = SiglipVisionConfig(**sizes, image_size=32, patch_size=4, vision_use_head=False)
        self.model = SiglipVisionModel(config).eval().requires_grad_(False)
        self.tower, self.grid, self.project_flops = SiglipTower(self.model), (4, 4), 0

    def encoder(self, frame_size: tuple[int, int]) -> PoolingModel:
        return self

    def preprocess(self, frames: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1

    def project(self, features: torch.Tensor) -> torch.Tensor:
        planes = features.transpose(1, 2).unflatten(2, self.tower.facts.grid)
        return interpolate(planes, size=self.grid, mode="bilinear").flatten(2).transpose(1, 2)

    def project_merged(self, features: torch.Tensor) -> torch.Tensor:
        return features


@dataclass(frozen=True, kw_only=True)
class Keeping(Memory):
    """Keeps the tokens that reach it."""

    name: str = "keeping"

    def open(self, model: Model, timer: StageTimer) -> Kept:
        return Kept()


class Kept(MemoryState):
    def __init__(self) -> None:
        self.frames: list[VisualTokens] = []

    def remember(self, frames: Sequence[VisualTokens]) -> list[int]:
        self.frames += frames
        return [0] * len(frames)

    def read(self, query: Query, waiting: Sequence[VisualTokens], prune: PruneOnRead) -> Reading:
        raise Asked([*self.frames, *waiting])

    def stats(self) -> dict[str, int]:
        return {}


class Asked(Exception):
    """There is no language model to answer; what a question would see is the first argument."""


@pytest.fixture(scope="module")
def model() -> PoolingModel:
    return Pooling().load()


def make_video(seed: int = 0) -> list[np.ndarray]:
    """A dark square moves over a still picture."""
    generator = np.random.default_rng(seed)
    frames = np.tile(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8), (NUM_FRAMES, 1, 1, 1))
    for index, frame in enumerate(frames):
        frame[8:20, 2 * index : 2 * index + 10] = 20
    return list(frames)


VIDEO, OTHER = make_video(), make_video(1)


def open_session(model, method, cacher, chunk_size=1, budget=5):
    settings = {"chunk_size": chunk_size} if cacher in CHUNKED else {}
    return StreamSession(model, make(cacher, "cacher", **settings), make(method, budget=budget), Keeping())


def push(session, frames, start=0, size=1):
    reports = []
    for first in range(0, len(frames), size):
        some = frames[first : first + size]
        reports += session.push(some, [float(start + first + i) for i in range(len(some))])
    return reports


def same(first: Sequence[VisualTokens], second: Sequence[VisualTokens]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.positions, b.positions) and torch.allclose(a.tokens, b.tokens, atol=1e-5)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("cacher", "chunk_size"), RUNS)
def test_any_pruner_on_any_cacher(model, method, cacher, chunk_size):
    """Budgets exact and reported, calls of any size alike, a new stream starts afresh."""
    session = open_session(model, method, cacher, chunk_size)
    reports = push(session, VIDEO, size=1) + session.flush()
    kept = list(session.memory.frames)
    pruner = session.pruner
    expected = TOKENS if isinstance(pruner, NoPruner) else 5
    counts = [report.num_tokens for report in reports]
    assert counts == [frame.num_tokens for frame in kept] and len(counts) == NUM_FRAMES
    for start in range(0, NUM_FRAMES, pruner.window_frames):
        window = counts[start : start + pruner.window_frames]
        assert sum(window) == expected * len(window)
    assert all(frame.positions.max() < TOKENS for frame in kept if frame.num_tokens)
    session.reset()
    push(session, VIDEO, size=4)
    session.flush()
    assert same(session.memory.frames, kept)


@pytest.mark.parametrize("method", METHODS)
def test_the_future_does_not_matter(model, method):
    """A question after five frames sees tokens of those five, whatever comes next."""
    question, seen = Question("q", 4.0, "What?"), []
    for rest in (VIDEO[5:6], OTHER[5:6]):
        session = open_session(model, method, "stc")
        push(session, VIDEO[:5])
        with pytest.raises(Asked) as asked:
            session.ask(question)
        seen.append(asked.value.args[0])
        push(session, rest, start=5)
    budget = TOKENS if method == "none" else 5
    assert [sum(frame.num_tokens for frame in frames) for frames in seen] == [5 * budget] * 2
    assert same(*seen) and len(seen[0]) == 5


@pytest.mark.parametrize("method", METHODS)
def test_two_streams_in_turn(model, method):
    """Sessions on one model that take turns give what each gives alone."""
    videos = (VIDEO, OTHER)
    sessions = [open_session(model, method, "frame_reuse") for _ in videos]
    for index in range(NUM_FRAMES):
        for session, video in zip(sessions, videos, strict=True):
            session.push([video[index]], [float(index)])
    for session, video in zip(sessions, videos, strict=True):
        session.flush()
        alone = open_session(model, method, "frame_reuse")
        push(alone, video)
        alone.flush()
        assert same(session.memory.frames, alone.memory.frames)


@pytest.mark.parametrize("method", METHODS)
def test_on_tokens_that_were_merged_in_the_tower(model, method):
    """Nine merged tokens take the place of the grid."""
    cacher = make("tome", "cacher", num_tokens=9, output="merged")
    session = StreamSession(model, cacher, make(method, budget=4), Keeping())
    push(session, VIDEO[:4])
    session.flush()
    counts = [frame.num_tokens for frame in session.memory.frames]
    assert sum(counts) == 4 * (9 if method == "none" else 4)


@pytest.mark.parametrize(("method", "settings"), [("visionzip", {"contextual_ratio": 0.5}), ("downsample", {})])
def test_merged_twice_stands_for_all_patches(model, method, settings):
    """In the tower and by the pruner: sizes still add up to the patches of the frame."""
    cacher = make("tome", "cacher", num_tokens=9, output="merged")
    session = StreamSession(model, cacher, make(method, budget=4, **settings), Keeping())
    push(session, VIDEO[:4])
    assert [float(frame.sizes.sum()) for frame in session.memory.frames] == pytest.approx([64] * 4)


@pytest.mark.parametrize("method", METHODS)
def test_what_the_tower_is_asked_counts_as_pruning(model, method):
    """Only methods that need it pay for it, and a frame that is reused pays once."""
    facts = model.tower.facts
    asked = {"attention_received": 4 * 64 * facts.hidden_size**2 + 2 * 64**2 * facts.hidden_size}
    asked |= {"keys": 2 * 64 * facts.hidden_size**2}
    session = open_session(model, method, "frame_reuse")
    reports = push(session, [VIDEO[0]] * 4) + session.flush()
    own = session.pruner.flops(TOKENS, facts.hidden_size)
    extra = max((asked[need] for need in session.pruner.needs), default=0)
    assert [report.flops["prune"] - own for report in reports] == [extra, 0, 0, 0]
    assert all("prune" in report.latency_ms for report in reports)

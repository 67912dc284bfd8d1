"""Every pruner with every cacher and chunk size, in a session over a real tower; found from the YAML files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from pruner_streams import CACHERS, METHODS, make
from torch.nn.functional import interpolate
from transformers import SiglipVisionConfig, SiglipVisionModel

from stc_lab.backbones import Backbone, StreamSession
from stc_lab.pruners import NoPruner
from stc_lab.types import Answer, Question, VisualTokens
from stc_lab.vision import SiglipTower

TOKENS, NUM_FRAMES = 16, 7
CHUNKED = [name for name in CACHERS if hasattr(make(name, "cacher"), "chunk_size")]
RUNS = [(name, size) for name in CACHERS for size in ((1, 2) if name in CHUNKED else (1,))]


class PoolingBackbone(Backbone):
    """A tiny SigLIP tower whose 8x8 patches are pooled to 4x4 tokens, and no language model."""

    takes_merged_tokens = True

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = dict(hidden_size=16, intermediate_size=24, num_attention_heads=2, num_hidden_layers=3)
        config = SiglipVisionConfig(**sizes, image_size=32, patch_size=4, vision_use_head=False)
        self.model = SiglipVisionModel(config).eval().requires_grad_(False)
        self.tower = SiglipTower(self.model)
        self.grid, self.tokens_per_frame = (4, 4), TOKENS

    @classmethod
    def check_settings(cls, settings) -> None:
        """Nothing to check."""

    def open(self, cacher, pruner, timer=None) -> KeepingSession:
        return KeepingSession(self, cacher, pruner, timer)

    def preprocess(self, frames: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1

    def project(self, features: torch.Tensor) -> torch.Tensor:
        planes = features.transpose(1, 2).unflatten(2, self.tower.facts.grid)
        return interpolate(planes, size=self.grid, mode="bilinear").flatten(2).transpose(1, 2)

    def project_merged(self, features: torch.Tensor) -> torch.Tensor:
        return features

    @property
    def project_flops(self) -> int:
        return 0


class KeepingSession(StreamSession):
    """Remembers the tokens that reach it."""

    def _start_memory(self) -> None:
        self.kept: list[VisualTokens] = []

    def _drop_memory(self) -> None:
        self.kept = []

    def _remember(self, frames: Sequence[VisualTokens]) -> list[int]:
        self.kept += frames
        return [0] * len(frames)

    def _answer(self, question: Question, mark: float) -> Answer:
        return Answer("", None, "generate", num_prompt_tokens=sum(frame.num_tokens for frame in self.kept))


@pytest.fixture(scope="module")
def backbone() -> PoolingBackbone:
    return PoolingBackbone()


def make_video(seed: int = 0) -> list[np.ndarray]:
    """A dark square moves over a still picture."""
    generator = np.random.default_rng(seed)
    frames = np.tile(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8), (NUM_FRAMES, 1, 1, 1))
    for index, frame in enumerate(frames):
        frame[8:20, 2 * index : 2 * index + 10] = 20
    return list(frames)


VIDEO, OTHER = make_video(), make_video(1)


def open_session(backbone, method, cacher, chunk_size=1, budget=5):
    settings = {"chunk_size": chunk_size} if cacher in CHUNKED else {}
    return backbone.open(make(cacher, "cacher", **settings), make(method, budget=budget))


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
def test_any_pruner_on_any_cacher(backbone, method, cacher, chunk_size):
    """Budgets exact and reported, calls of any size alike, a new stream starts afresh."""
    session = open_session(backbone, method, cacher, chunk_size)
    reports = push(session, VIDEO, size=1) + session.flush()
    kept = list(session.kept)
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
    assert same(session.kept, kept)


@pytest.mark.parametrize("method", METHODS)
def test_the_future_does_not_matter(backbone, method):
    """A question after five frames sees tokens of those five, whatever comes next."""
    question, sessions = Question("q", 4.0, "What?"), []
    for rest in (VIDEO[5:6], OTHER[5:6]):
        session = open_session(backbone, method, "stc")
        push(session, VIDEO[:5])
        answer = session.ask(question)
        sessions.append((answer.num_prompt_tokens, list(session.kept)))
        push(session, rest, start=5)
    budget = TOKENS if method == "none" else 5
    assert sessions[0][0] == sessions[1][0] == 5 * budget
    assert same(sessions[0][1], sessions[1][1]) and len(sessions[0][1]) == 5


@pytest.mark.parametrize("method", METHODS)
def test_two_streams_in_turn(backbone, method):
    """Sessions on one model that take turns give what each gives alone."""
    videos = (VIDEO, OTHER)
    sessions = [open_session(backbone, method, "frame_reuse") for _ in videos]
    for index in range(NUM_FRAMES):
        for session, video in zip(sessions, videos, strict=True):
            session.push([video[index]], [float(index)])
    for session, video in zip(sessions, videos, strict=True):
        session.flush()
        alone = open_session(backbone, method, "frame_reuse")
        push(alone, video)
        alone.flush()
        assert same(session.kept, alone.kept)


@pytest.mark.parametrize("method", METHODS)
def test_on_tokens_that_were_merged_in_the_tower(backbone, method):
    """Nine merged tokens take the place of the grid."""
    session = backbone.open(make("tome", "cacher", num_tokens=9, output="merged"), make(method, budget=4))
    push(session, VIDEO[:4])
    session.flush()
    counts = [frame.num_tokens for frame in session.kept]
    assert sum(counts) == 4 * (9 if method == "none" else 4)


@pytest.mark.parametrize(("method", "settings"), [("visionzip", {"contextual_ratio": 0.5}), ("downsample", {})])
def test_merged_twice_stands_for_all_patches(backbone, method, settings):
    """In the tower and by the pruner: sizes still add up to the patches of the frame."""
    session = backbone.open(make("tome", "cacher", num_tokens=9, output="merged"), make(method, budget=4, **settings))
    push(session, VIDEO[:4])
    assert [float(frame.sizes.sum()) for frame in session.kept] == pytest.approx([64] * 4)


@pytest.mark.parametrize("method", METHODS)
def test_what_the_tower_is_asked_counts_as_pruning(backbone, method):
    """Only methods that need it pay for it, and a frame that is reused pays once."""
    facts = backbone.tower.facts
    asked = {"attention_received": 4 * 64 * facts.hidden_size**2 + 2 * 64**2 * facts.hidden_size}
    asked |= {"keys": 2 * 64 * facts.hidden_size**2}
    session = open_session(backbone, method, "frame_reuse")
    reports = push(session, [VIDEO[0]] * 4) + session.flush()
    own = session.pruner.flops(TOKENS, facts.hidden_size)
    extra = max((asked[need] for need in session.pruner.needs), default=0)
    assert [report.flops["prune"] - own for report in reports] == [extra, 0, 0, 0]
    assert all("prune" in report.latency_ms for report in reports)

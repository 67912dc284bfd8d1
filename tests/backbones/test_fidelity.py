"""A session with an uncompressed one beside it: exact where nothing is compressed, and of no consequence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stc_lab.backbones.streamforest import StreamForest
from stc_lab.benchmarks.folder import FolderBenchmark
from stc_lab.cachers.none import NoCacher
from stc_lab.cachers.stc import STCCacher
from stc_lab.cachers.tome import ToMeCacher
from stc_lab.memories.streamforest import StreamForestMemory
from stc_lab.predict.fidelity import FidelitySession, feature_fidelity
from stc_lab.predict.recorder import Recorder
from stc_lab.predict.stream import StreamTask, run_stream
from stc_lab.pruners.none import NoPruner
from stc_lab.pruners.random import RandomPruner
from stc_lab.pruners.stc import STCPruner
from stc_lab.pruners.vidcom2 import VidCom2Pruner
from stc_lab.results.records import Record, answer_view
from stc_lab.session import StreamSession
from stc_lab.types import Answer, FrameReport, Question, Stream

Frames = list[np.ndarray]
OPEN = Question("open", 20.0, "What happens?")
METHODS = {
    "chunks": (STCCacher(interval=4, update_ratio=0.2, chunk_size=3), STCPruner(budget=3)),
    "window": (STCCacher(interval=3, update_ratio=0.3), VidCom2Pruner(budget=4, window_frames=4)),
    "merged": (ToMeCacher(num_tokens=7, output="merged"), NoPruner()),
    "random": (NoCacher(), RandomPruner(budget=2)),
}


def shadowed(backbone, cacher, pruner, **aside) -> FidelitySession:
    return FidelitySession(backbone.open(cacher, pruner), backbone.open(NoCacher(), NoPruner()), **aside)


def run(session, video: Frames, question: Question) -> tuple[list[FrameReport], list[Answer]]:
    """Reports and answers of a stream that is asked in the middle and at the end."""
    reports, answers = [], []
    for index, frame in enumerate(video):
        reports += session.push([frame], [float(index)])
        if index == 5:
            answers.append(session.ask(question))
    answers += [session.ask(question), session.ask(OPEN)]
    return reports + session.flush(), answers


def plain(reports: list[FrameReport], answers: list[Answer]) -> tuple:
    """All that was there without a second session, but times."""
    return (
        [replace(report, latency_ms={}, fidelity={}) for report in reports],
        [replace(answer, latency_ms={}, ttft_ms=0.0, fidelity={}) for answer in answers],
        [(list(answer.latency_ms), answer.first_logits.tolist()) for answer in answers],
        [list(report.latency_ms) for report in reports],
    )


@pytest.fixture(scope="module")
def backbone(new_backbone: Callable):
    return new_backbone(max_new_tokens=2)


@pytest.fixture(scope="module")
def video(video: Frames) -> Frames:
    return video[:12]


@pytest.fixture(params=["rekv", "recent", "streamforest"])
def any_backbone(request: pytest.FixtureRequest, backbone, new_recent: Callable, forest_folder: Path):
    if request.param == "rekv":
        return backbone
    if request.param == "recent":
        return new_recent()
    memory = StreamForestMemory(short_frames=3, split_window=2, event_tokens=4, quota=12)
    model = StreamForest(checkpoint=str(forest_folder), tokens_per_frame=8, max_new_tokens=4).load(dtype=torch.float32)
    return SimpleNamespace(open=lambda cacher, pruner: StreamSession(model, cacher, pruner, memory))


def test_uncompressed_is_exactly_itself(any_backbone, video: Frames, question: Question) -> None:
    reports, answers = run(shadowed(any_backbone, NoCacher(), NoPruner()), video, question)
    exact = {"feature_cosine": 1.0, "worst_token_cosine": 1.0}
    assert [report.fidelity for report in reports] == [exact] * len(video)
    over = ["choices", "choices", "vocabulary"]
    assert [answer.fidelity for answer in answers] == [
        {"kl_divergence": 0.0, "top1_agrees": True, "over": name} for name in over
    ]


@pytest.mark.parametrize("name", METHODS)
def test_it_changes_nothing_and_sees_what_is_lost(name: str, backbone, video: Frames, question: Question) -> None:
    cacher, pruner = METHODS[name]
    alone = run(backbone.open(cacher, pruner), video, question)
    measured = run(shadowed(backbone, cacher, pruner), video, question)
    assert plain(*measured) == plain(*alone)
    reports, answers = measured
    assert len(reports) == len(video) and all(report.features is None for report in reports)
    assert all(answer.fidelity["kl_divergence"] > 0 for answer in answers)
    cosines = [report.fidelity["feature_cosine"] for report in reports]
    if name == "random":  # the tower is not compressed here
        assert cosines == [1.0] * len(video)
    else:
        assert 0 < min(cosines) < 0.9999


def test_features_are_compared_frame_by_frame(backbone, video: Frames, question: Question) -> None:
    cacher, pruner = METHODS["window"]
    reports, _ = run(shadowed(backbone, cacher, pruner), video, question)
    state = cacher.new_state()
    for frame, report in zip(video, reports, strict=True):
        pixels = backbone.model.preprocess([frame])
        (features,) = cacher.encode(backbone.model.tower, pixels, state).features
        (dense,) = NoCacher().encode(backbone.model.tower, pixels, None).features
        assert report.fidelity == feature_fidelity(features, dense)
        cosine = torch.nn.functional.cosine_similarity(features, dense, dim=-1)
        assert report.fidelity["feature_cosine"] == pytest.approx(cosine.mean().item(), abs=2e-6)


def test_the_reference_runs_aside_and_only_the_reference(backbone, video: Frames, question: Question) -> None:
    calls: list[str] = []

    @contextmanager
    def aside() -> Iterator[None]:
        before = measured.num_frames, reference.num_frames
        yield
        calls.append(f"{measured.num_frames - before[0]}{reference.num_frames - before[1]}")

    measured, reference = backbone.open(*METHODS["window"]), backbone.open(NoCacher(), NoPruner())
    session = FidelitySession(measured, reference, aside)
    session.push(video[:3], [0.0, 1.0, 2.0])
    session.ask(question)
    assert calls == ["03", "00"]
    assert session.stats() == measured.stats() != reference.stats()
    session.close()
    with pytest.raises(RuntimeError, match="closed"):
        reference.push(video[:1], [3.0])


@dataclass
class Frame:
    timestamp_s: float
    pixels: np.ndarray
    decode_ms: float = 1.0

    @property
    def grid_time_s(self) -> float:
        return self.timestamp_s


class Source:
    """One frame a second."""

    def __init__(self, video: Frames) -> None:
        self.left = [Frame(float(index), frame) for index, frame in enumerate(video)]

    def frames(self, until_s: float) -> Iterator[Frame]:
        while self.left and self.left[0].timestamp_s <= until_s:
            yield self.left.pop(0)


def records(open_session: Callable, video: Frames, recorded: frozenset[str] = frozenset()) -> list[Record]:
    """Of two questions about the whole past, and one about the last seconds."""
    questions = (
        Question("a", 4.0, "What moves?", ("dot", "square"), "B"),
        Question("b", 9.0, "What moves?", ("dot", "square"), "B", context_start_s=6.0),
        Question("c", 11.0, "What happens?"),
    )
    task = StreamTask(Stream("s", Path("s.mp4"), questions), recorded)
    recorder = Recorder("f", FolderBenchmark("."), "cpu")
    return list(run_stream(task, open_session, Source(video), recorder, chunk_size=3))


def test_context_windows_and_resuming(backbone, video: Frames) -> None:
    methods = METHODS["chunks"]
    whole = records(lambda: shadowed(backbone, *methods), video)
    alone = records(lambda: backbone.open(*methods), video)
    assert list(map(answer_view, whole)) == list(map(answer_view, alone))
    assert [len(record.frames["fidelity"]["feature_cosine"]) for record in whole] == [5, 4, 7]
    assert all("fidelity" not in record.frames and not record.fidelity for record in alone)
    rest = records(lambda: shadowed(backbone, *methods), video, frozenset("a"))
    assert [record.question_id for record in rest] == ["b", "c"]
    for again, record in zip(rest, whole[1:], strict=True):
        assert again.fidelity == record.fidelity != {}
        assert again.frames["fidelity"] == record.frames["fidelity"]


def test_what_is_left_out_is_no_wall_time(monkeypatch: pytest.MonkeyPatch, backbone, video: Frames) -> None:
    now = 0.0
    monkeypatch.setattr("stc_lab.predict.recorder.time.perf_counter", lambda: now)
    recorder = Recorder("f", FolderBenchmark("."), "cpu")
    now = 2.0
    with recorder.exclude():
        now = 50.0
    now = 51.0
    assert math.isclose(recorder._finish_lap(), 3.0)

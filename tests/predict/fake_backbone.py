"""A backbone without a model: its answers depend on every frame that its session has seen, and on nothing else."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch

from stc_lab.cachers.base import FrameTrace
from stc_lab.measure import StageTimer
from stc_lab.memories.base import ModelFacts
from stc_lab.predict import loop
from stc_lab.types import Answer, FrameReport, Question, VisualTokens

TOKENS = 9


@dataclass(frozen=True, kw_only=True)
class FakeBackbone:
    """``kill_at``: the process sends itself the signal ``kill_with`` at that question, if the file ``marker`` is there.

    ``fail_in``: sessions raise at the first question about frames as bright as that (a stand-in for a defect).
    """

    name: str = "fake"
    checkpoint: str = "no/weights"
    tokens_per_frame: int = TOKENS
    kill_at: str | None = None
    marker: str | None = None
    fail_in: str | None = None
    log: str | None = None
    kill_with: str = "SIGKILL"

    decides_by_itself: ClassVar[bool] = False

    def facts(self) -> ModelFacts:
        return ModelFacts(self.checkpoint, TOKENS, frozenset({"kv"}))

    def check(self, cacher, pruner, memory, facts=None) -> None:
        pruner.check(TOKENS)

    def load(self) -> FakeModel:
        return FakeModel(self)


class FakeModel(torch.nn.Module):
    """Not a single layer."""

    def __init__(self, settings: FakeBackbone) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.settings, self.facts = settings, settings.facts()


StreamSession = loop.StreamSession


def open_session(model: Any, cacher, pruner, memory, timer: StageTimer) -> Any:
    """In every process that imports this module, a fake model gets fake sessions."""
    if isinstance(model, FakeModel):
        return FakeSession(model.settings, pruner, timer)
    return StreamSession(model, cacher, pruner, memory, timer)


loop.StreamSession = open_session


class FakeSession:
    """Keeps a running digest of pixels and times."""

    def __init__(self, backbone: FakeBackbone, pruner, timer: StageTimer) -> None:
        self.backbone, self.timer = backbone, timer
        self.num_kept = pruner.num_kept(TOKENS)
        self.digest, self.times, self.observer = 0, [], None

    def observe_with(self, observer) -> None:
        self.observer = observer

    def push(self, frames: Sequence[np.ndarray], timestamps_s: Sequence[float]) -> list[FrameReport]:
        reports = []
        for frame, time_s in zip(frames, timestamps_s, strict=True):
            assert frame.dtype == np.uint8 and frame.ndim == 3
            assert not self.times or time_s >= self.times[-1]
            with self.timer.stage("vision"):
                self.digest = (self.digest * 31 + int(frame.astype(np.int64).sum())) % 1_000_003
            with self.timer.stage("prefill"):
                self.times.append(time_s)
            is_reference = len(self.times) % 2 == 1
            ratio = 1.0 if is_reference else 0.25
            flops = {"vision": 100, "prefill": 10 * self.num_kept}
            if self.observer is not None:
                self._show(frame, time_s)
            reports.append(FrameReport(time_s, is_reference, ratio, TOKENS, self.num_kept, self.timer.drain(), flops))
        return reports

    def _show(self, frame: np.ndarray, time_s: float) -> None:
        tower = SimpleNamespace(facts=SimpleNamespace(grid=(3, 3), num_tokens=TOKENS), on_grid=lambda values: values)
        full = VisualTokens.full(torch.zeros(TOKENS, 2), (3, 3), time_s)
        note = self.observer.encoded(frame, time_s, FrameTrace(True, [TOKENS]), tower)
        if note is not None:
            self.observer.remembered(note, full, full.keep(torch.arange(self.num_kept)))

    def flush(self) -> list[FrameReport]:
        return []

    def ask(self, question: Question) -> Answer:
        self._misbehave(question)
        assert all(time_s <= question.time_s + 1e-3 for time_s in self.times), "a frame of the future was read"
        with self.timer.stage("generate"):
            letter = "ABCD"[(self.digest + len(question.text)) % 4]
        if self.backbone.log:
            with Path(self.backbone.log).open("a") as file:
                file.write(f"{question.question_id}\n")
        prediction = None if question.text == "unreadable" else letter
        details = {"digest": self.digest}
        return Answer(letter, prediction, "fake", 5, 1, 1.0, None, self.timer.drain(), {"generate": 7}, details)

    def stats(self) -> dict:
        return {"kv_bytes_device": 10 * len(self.times), "kv_bytes_host": 0, "num_frames": len(self.times)}

    def close(self) -> None:
        self.times = None

    def _misbehave(self, question: Question) -> None:
        backbone = self.backbone
        if backbone.marker and question.question_id == backbone.kill_at and Path(backbone.marker).exists():
            os.kill(os.getpid(), signal.Signals[backbone.kill_with])
        if backbone.fail_in and question.question_id.startswith(backbone.fail_in):
            raise RuntimeError("a defect")

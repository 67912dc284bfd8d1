"""The shipped Dispider: small, answers on the real path, and knows when an answer has come."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stc_lab.api import open_session
from stc_lab.backbones.checkpoints import POCKET_ROOT
from stc_lab.backbones.dispider import Dispider
from stc_lab.backbones.dispider.model import DispiderVideoModel
from stc_lab.cachers.none import NoCacher
from stc_lab.memories.dispider import DispiderMemory
from stc_lab.pocket.dataset import held_out_script
from stc_lab.pocket.decisions import (
    ScoredDecision,
    Watched,
    auc,
    balanced_accuracy,
    before_and_after,
    watch_stream,
    with_interval,
)
from stc_lab.pocket.world.questions import sample_questions
from stc_lab.pocket.world.render import coded_frames
from stc_lab.pruners.stc import STCPruner
from stc_lab.types import Decision, Question

FOLDER = POCKET_ROOT / "dispider"


@pytest.fixture(scope="module")
def backbone() -> DispiderVideoModel:
    return Dispider().load(dtype=torch.float32)


def test_it_is_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 10e6


@pytest.mark.slow
def test_it_answers_dev_streams_from_pruned_frames(backbone):
    """A guard against a broken checkpoint, far below what it reaches (see docs/dispider.md), far above chance."""
    right = []
    for index in range(2):
        script = held_out_script("dev", index)
        session = open_session(backbone, NoCacher(), STCPruner(budget=64), DispiderMemory())
        frames, pushed = coded_frames(script)[::4], 0
        for number, asked in enumerate(sample_questions(script, 12)):
            seen = int(asked.time_s) + 1
            session.push(frames[pushed:seen], list(map(float, range(pushed, seen))))
            pushed = max(pushed, seen)
            question = Question(f"q{number}", asked.time_s, asked.text, asked.options, asked.answer)
            right.append(session.ask(question).prediction == asked.answer)
        session.close()
    assert np.mean(right) > 0.5


@pytest.mark.slow
def test_it_stays_silent_before_and_responds_when_the_answer_comes(backbone):
    watched = [w for i in range(3) for w in watch_stream(backbone, held_out_script("dev", i), f"dev-{i}")]
    judged = [j for each in watched for j in each.judged]
    scores, labels = np.array([j.score for j in judged]), np.array([j.is_time for j in judged])
    assert auc(scores, labels) > 0.8 and balanced_accuracy(scores, labels) > 0.7
    higher, _ = before_and_after(watched)
    assert len(higher) >= 5 and np.mean(higher) > 0.7


def test_decisions_are_measured_against_what_was_responded():
    question = Question("q", 0.0, "what color is the ring now ?", task="color_now")
    watched = Watched(question, np.array([-1, 2, 2, 3]))
    for time_s, score in ((3.0, -1.0), (7.0, 2.0), (11.0, 1.0), (15.0, -2.0)):
        watched.judge("s", Decision("q", time_s, score, score > 0))
    assert [judged.is_time for judged in watched.judged] == [False, True, False, True]
    assert [judged.first for judged in watched.judged] == [False, True, False, False]
    assert before_and_after([watched]) == ([True], [True])
    scores, labels = np.array([-1.0, 2.0, 1.0, -2.0]), np.array([False, True, False, True])
    assert auc(scores, labels) == 0.5 and balanced_accuracy(scores, labels) == 0.5
    judged = [
        ScoredDecision(f"s{i}", "color_now", float(i % 3 == 0) + 0.1 * (i % 2), i % 3 == 0, False) for i in range(12)
    ]
    assert with_interval(auc, judged)[0] == 1.0

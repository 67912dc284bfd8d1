"""The shipped checkpoint: small, plain, and as good on the real path as its training says."""

from __future__ import annotations

import av
import numpy as np
import pytest
import torch
from transformers import LlavaOnevisionForConditionalGeneration

from stc_lab import load, open_session
from stc_lab.backbones.checkpoints import POCKET_ROOT
from stc_lab.pocket.dataset import ensure_streams
from stc_lab.pocket.probe import Probe, choices

FOLDER = POCKET_ROOT / "rekv"


@pytest.fixture(scope="module")
def probe() -> Probe:
    model, info = LlavaOnevisionForConditionalGeneration.from_pretrained(FOLDER, output_loading_info=True)
    assert not any(info.values()) and next(model.parameters()).dtype == torch.float32
    return Probe(model)


def test_it_is_small():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 10e6


def test_it_answers_held_out_streams_from_all_tokens(probe):
    """A guard against a broken checkpoint, far below what it reaches (see docs/pocket.md), far above chance."""
    streams = probe.see("dev", range(3))
    correct = np.concatenate([probe.correct(s, choices(196)["all"](s)) for s in streams])
    blind = np.concatenate([probe.correct(s, choices(196)["all"](s), "blind") for s in streams])
    assert correct.mean() > 0.6 > blind.mean()


def test_the_streaming_path_gives_the_answers_of_the_training_path(probe, tmp_path):
    """One short stream: frames through decoder, session, window and retrieval; letters as packed questions give."""
    (stream,) = ensure_streams(tmp_path, "dev", 1)
    with av.open(str(stream.video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][::4]
    session = open_session(load("rekv", answer_reader="letter_logits"))
    answers, pushed = [], 0
    for question in stream.questions:
        seen = int(question.time_s) + 1
        session.push(frames[pushed:seen], list(map(float, range(pushed, seen))))
        pushed = max(pushed, seen)
        answers.append(session.ask(question).prediction == question.answer)
    (seen_stream,) = probe.see("dev", [0])
    packed = probe.correct(seen_stream, choices(196)["all"](seen_stream))
    assert np.mean(np.array(answers) == packed) > 0.9

"""The plain sliding window: what it sees, what it forgets, what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stc_lab.backbones.llava_onevision import INIT, LlavaOnevision, answer_prompt
from stc_lab.cachers.none import NoCacher
from stc_lab.cachers.stc import STCCacher
from stc_lab.memories.recent import Recent
from stc_lab.pruners.none import NoPruner
from stc_lab.pruners.stc import STCPruner
from stc_lab.session import StreamSession
from stc_lab.types import Answer, Question

Frames = list[np.ndarray]


@pytest.fixture(scope="module")
def recent(new_recent: Callable):
    return new_recent()


def opened(backbone) -> StreamSession:
    return backbone.open(STCCacher(interval=3, update_ratio=0.3), STCPruner(budget=5, window=3))


def facts(answer: Answer) -> tuple:
    return replace(answer, ttft_ms=0.0, latency_ms={}), tuple(answer.latency_ms)


def run(session: StreamSession, video: Frames, question: Question) -> Answer:
    session.push(video, [float(t) for t in range(len(video))])
    return session.ask(question)


@pytest.mark.parametrize("image_newline", [False, True])
def test_answer_equals_the_offline_model_on_the_last_frames(
    new_recent: Callable, video: Frames, question: Question, image_newline: bool
) -> None:
    backbone = new_recent(image_newline=image_newline, answer_reader="letter_logits")
    answer = run(backbone.open(NoCacher(), NoPruner()), video, question)
    lab, model = backbone.model, backbone.model.model
    with torch.no_grad():
        pixels = lab.preprocess(video[-3:])
        features = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
        tokens = model.model.apply_pooling(model.model.multi_modal_projector(features)).flatten(0, 1)
        newline = model.model.image_newline[None] if image_newline else tokens[:0]
        text = [lab.decoder.embed(lab.token_ids(part)) for part in (INIT, answer_prompt(question))]
        embeds = torch.cat((text[0], tokens, newline, text[1]))[None]
        logits = model.lm_head(model.model.language_model(inputs_embeds=embeds).last_hidden_state[0, -1])
    expected = [logits[lab.letter_id(letter)].item() for letter in "ABC"]
    assert list(answer.letter_logits.values()) == pytest.approx(expected, abs=1e-4)
    assert answer.prediction == "ABC"[int(np.argmax(expected))]
    assert answer.details["num_visual_tokens"] == answer.tokens_read == 27
    assert answer.details["prompt_kv_bytes"] == embeds.shape[1] * 2 * 2 * 2 * 8 * 4
    assert answer.details["first_frame_time_s"] == len(video) - 3


def test_older_frames_are_forgotten(recent, video: Frames, question: Question) -> None:
    whole, tail = recent.open(NoCacher(), NoPruner()), recent.open(NoCacher(), NoPruner())
    tail.push(video[-3:], [float(t) for t in range(len(video) - 3, len(video))])
    assert facts(run(whole, video, question)) == facts(tail.ask(question))


def test_interleaved_sessions_equal_separate_ones(recent, video: Frames, question: Question) -> None:
    other = [255 - frame for frame in video[::-1]]
    expected = facts(run(opened(recent), video, question)), facts(run(opened(recent), other, question))
    first, second = opened(recent), opened(recent)
    for index, (one, two) in enumerate(zip(video, other, strict=True)):
        first.push([one], [float(index)])
        second.push([two], [float(index)])
        first.ask(question)
    assert (facts(first.ask(question)), facts(second.ask(question))) == expected


def test_memory_is_the_window(recent, video: Frames, question: Question) -> None:
    session = opened(recent)
    fresh = session.stats()
    assert fresh["kv_bytes_device"] == 0 and session.ask(question).details["num_visual_tokens"] == 0
    for index, frame in enumerate(video):
        (report,) = session.push([frame], [float(index)])
        held = min(index + 1, 3)
        stats = session.stats()
        assert (stats["num_blocks"], stats["num_tokens"]) == (held, 5 * held)
        assert stats["kv_bytes_device"] == 5 * held * 32 * 4
        assert report.num_tokens == 5 and report.flops["prefill"] == 0
    session.reset()
    assert session.stats() == fresh


def test_a_budget_is_filled_with_the_newest_frames(
    new_recent: Callable, video: Frames, question: Question
) -> None:
    answer = run(new_recent(budget=17).open(NoCacher(), STCPruner(budget=5)), video, question)
    assert answer.tokens_read == answer.tokens_read_max == 15  # three frames of five tokens; a fourth does not fit
    assert answer.details["first_frame_time_s"] == len(video) - 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": 0}, "memory.num_frames=0: must be at least 1"),
        ({"budget": 0}, "memory.budget=0: must be at least 1"),
        ({"num_frames": None}, "give one of them"),
    ],
)
def test_wrong_settings_are_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recent(**changes)


def test_a_window_must_fit_the_context_and_hold_a_frame(checkpoint_folder: Path) -> None:
    model = LlavaOnevision(checkpoint=str(checkpoint_folder), tokens_per_frame=9)
    with pytest.raises(ValueError, match=r"memory.num_frames=9000: .* lower memory.num_frames to at most 6553"):
        model.check(NoCacher(), STCPruner(budget=5), Recent(num_frames=9000))
    with pytest.raises(ValueError, match=r"memory.budget=40000: .* lower memory.budget to at most 32767"):
        model.check(NoCacher(), STCPruner(budget=5), Recent(budget=40000))
    with pytest.raises(ValueError, match="memory.budget=4: a single frame has 5 tokens; raise it to at least 5"):
        model.check(NoCacher(), STCPruner(budget=5), Recent(budget=4))

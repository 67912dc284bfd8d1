"""``memory=all``, uncompressed: the answer that the model's own ``generate`` gives about all frames as one video."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stc_lab import answering
from stc_lab.backbones.base import VideoModel
from stc_lab.backbones.llava_onevision import INIT, answer_prompt
from stc_lab.backbones.qwen_vl.model import question_text
from stc_lab.cachers.none import NoCacher
from stc_lab.language.chat import ASSISTANT, CLOSE, SYSTEM, USER, VISION_END, VISION_START
from stc_lab.language.context import Generated
from stc_lab.memories.all import All
from stc_lab.pruners.none import NoPruner
from stc_lab.session import StreamSession
from stc_lab.types import Answer, Question

MAX_NEW_TOKENS = 6
QUESTIONS = [
    Question("choice", 5.0, "What moves?", ("a dot", "a square", "a line"), "B"),
    Question("open", 5.0, "What is there to see?"),
]
VIDEO = 2
"""How Hugging Face's processors mark the tokens of a video among those of the text (0)."""


@pytest.fixture(scope="module")
def wide_frames() -> list[np.ndarray]:
    """A bright square on its way over noise; Qwen-VL models see 5 x 6 visual tokens."""
    generator = np.random.default_rng(2)
    background = generator.integers(0, 120, (40, 48, 3), dtype=np.uint8)
    frames = [background.copy() for _ in range(12)]
    for index, frame in enumerate(frames):
        frame[8:24, 3 * index : 3 * index + 14] = (250, 60 * (index % 4), 90)
    return frames


def asked(
    model: VideoModel, frames: Sequence[np.ndarray], question: Question, monkeypatch: pytest.MonkeyPatch
) -> tuple[Answer, Generated]:
    """The answer of a stream that came frame by frame, and the tokens it was made of."""
    made: list[Generated] = []

    def generate(*args: Any, **kwargs: Any) -> Generated:
        made.append(original(*args, **kwargs))
        return made[-1]

    original = answering.generate
    monkeypatch.setattr(answering, "generate", generate)
    session = StreamSession(model, NoCacher(), NoPruner(), All())
    for index, frame in enumerate(frames):
        session.push([frame], [index / 2])
    answer = session.ask(question)
    return answer, made[-1]


def generated(model: VideoModel, before: str, num_visual: int, after: str, **inputs: Any) -> tuple[list[int], Tensor]:
    """Tokens that Hugging Face's model says, greedily, and the logits [V] of the first."""
    hf = model.model
    placeholder = hf.config.video_token_id
    words = model.token_ids(before), model.token_ids(after)
    ids = torch.tensor([[*words[0], *[placeholder] * num_visual, *words[1]]])
    if "video_grid_thw" in inputs:
        inputs["mm_token_type_ids"] = (ids == placeholder).int() * VIDEO
    with torch.no_grad():
        out = hf.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            repetition_penalty=model.settings.repetition_penalty,
            output_logits=True,
            return_dict_in_generate=True,
            **inputs,
        )
    return out.sequences[0, ids.shape[1] :].tolist(), out.logits[0][0]


def require_equal(made: tuple[Answer, Generated], expected: tuple[list[int], Tensor], model: VideoModel) -> None:
    (answer, said), (ids, logits) = made, expected
    torch.testing.assert_close(answer.first_logits, logits, atol=1e-4, rtol=1e-4)
    assert said.ids == ids
    assert answer.text == model.text(said.text_ids) and answer.num_generated_tokens == len(said.text_ids)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.question_id)
@pytest.mark.parametrize("num_frames", [1, 12])
def test_llava_onevision(
    new_model: Callable,
    wide_frames: list[np.ndarray],
    question: Question,
    num_frames: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the newline that the model's offline use puts behind a video."""
    model = new_model("llava_onevision", image_newline=True, max_new_tokens=MAX_NEW_TOKENS)
    frames = wide_frames[:num_frames]
    made = asked(model, frames, question, monkeypatch)
    pixels = model.preprocess(frames)[None]
    num_visual = model.settings.tokens_per_frame * num_frames + 1
    expected = generated(model, INIT, num_visual, answer_prompt(question), pixel_values_videos=pixels)
    require_equal(made, expected, model)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.question_id)
@pytest.mark.parametrize("repetition_penalty", [1.0, 1.3])
@pytest.mark.parametrize(
    ("backbone", "num_frames"), [("qwen2_vl", 12), ("qwen2_vl", 11), ("qwen2_5_vl", 6), ("qwen2_5_vl", 5)]
)
def test_qwen_vl(
    new_model: Callable,
    wide_frames: list[np.ndarray],
    backbone: str,
    num_frames: int,
    repetition_penalty: float,
    question: Question,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An odd video ends with its last frame twice. The video is no longer than wide in positions: behind longer ones
    this version of the library puts text at positions of the video, unlike the models' own code."""
    model = new_model(
        backbone,
        tokens_per_frame=30,
        answer_reader="generate",
        repetition_penalty=repetition_penalty,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    frames = wide_frames[:num_frames]
    made = asked(model, frames, question, monkeypatch)
    padded = [*frames, *frames[-1:] * (num_frames % 2)]
    pairs = [np.stack(pair) for pair in zip(padded[::2], padded[1::2], strict=True)]
    encoder = model.encoder(frames[0].shape[:2])
    rows, columns = encoder.grid
    assert (rows, columns) == (5, 6)
    inputs = {
        "pixel_values_videos": encoder.preprocess(pairs).flatten(0, 1),
        "video_grid_thw": torch.tensor([[len(pairs), 2 * rows, 2 * columns]]),
    }
    if backbone == "qwen2_5_vl":
        inputs["second_per_grid_ts"] = torch.tensor([2 / model.settings.fps])
    before = f"{SYSTEM}{USER}{VISION_START}"
    after = f"{VISION_END}{question_text(question)}{CLOSE}{ASSISTANT}"
    expected = generated(model, before, len(pairs) * rows * columns, after, **inputs)
    require_equal(made, expected, model)

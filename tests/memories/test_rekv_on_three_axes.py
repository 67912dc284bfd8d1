"""ReKV on Qwen-VL models: blocks keep their times, rows and columns, in the stream and when they are retrieved."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from stc_lab.backbones.base import VideoModel
from stc_lab.cachers.none import NoCacher
from stc_lab.language.caches.growing import GrowingStore
from stc_lab.language.context import Context
from stc_lab.language.sequence import Clip, Cursor, Segment
from stc_lab.measure import StageTimer
from stc_lab.memories.recent import Recent
from stc_lab.memories.rekv import ReKV
from stc_lab.pruners.base import Pruner
from stc_lab.pruners.none import NoPruner
from stc_lab.pruners.stc import STCPruner
from stc_lab.session import StreamSession
from stc_lab.types import Question, VisualTokens

MODELS = [
    pytest.param("qwen2_vl", 2.0, id="qwen2_vl"),
    pytest.param("qwen2_5_vl", 2.0, id="qwen2_5_vl"),
    pytest.param("qwen2_5_vl", 3.0, id="qwen2_5_vl-fractions"),
]
"""With the frames a second; at three of them, temporal patches of Qwen2.5-VL stand at fractions of a position."""
PRUNERS = [pytest.param(NoPruner(), id="none"), pytest.param(STCPruner(keep_ratio=0.5, window=2), id="stc")]
QUESTION = Question("q", 5.0, "What moves?", ("a dot", "a square", "a line"), "B")


def session_of(model: VideoModel, memory: ReKV | Recent, pruner: Pruner, frames: Sequence[np.ndarray]) -> StreamSession:
    session = StreamSession(model, NoCacher(), pruner, memory)
    session.push(frames, [index / model.settings.fps for index in range(len(frames))])
    return session


def pairs_of(model: VideoModel, pruner: Pruner, frames: Sequence[np.ndarray]) -> list[VisualTokens]:
    """Visual tokens of the pairs of a stream, as they come out of the pruner."""
    return list(session_of(model, Recent(num_frames=100), pruner, frames).memory.window)


def clips(frames: Sequence[VisualTokens]) -> list[Segment]:
    """Every pair as a clip of its own, as blocks are: each starts behind the furthest position of the one before."""
    return [Clip((frame,)) for frame in frames]


@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize(("backbone", "fps"), MODELS)
def test_all_blocks_in_a_wide_window_are_one_prompt(
    new_model: Callable, tiny_frames: list[np.ndarray], backbone: str, fps: float, pruner: Pruner
) -> None:
    model = new_model(backbone, fps=fps)
    answer = session_of(model, ReKV(n_local=4000, topk=64), pruner, tiny_frames).ask(QUESTION)
    frames, layout = pairs_of(model, pruner, tiny_frames), model.layout
    assert answer.tokens_read == sum(frame.num_tokens for frame in frames)
    question = layout.question(QUESTION, model.settings.answer_reader)
    prompt = [*layout.opening(), *clips(frames), *layout.closing(), *question]
    with torch.inference_mode():
        expected = Context(model, GrowingStore(model.decoder.shape)).read(prompt)
    torch.testing.assert_close(answer.first_logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize(("backbone", "fps"), MODELS)
def test_retrieved_blocks_stand_one_after_the_other(
    new_model: Callable, tiny_frames: list[np.ndarray], backbone: str, fps: float, pruner: Pruner
) -> None:
    """Keys of the first layer do not depend on what was read before: those of a prompt with these blocks alone."""
    model, chosen = new_model(backbone, fps=fps), [1, 4, 6]
    frames = pairs_of(model, pruner, tiny_frames)
    state, layout = ReKV(n_local=4000, topk=3).open(model, StageTimer(model.device)), model.layout
    with torch.inference_mode():
        state.remember(frames)
        view = state.store.retrieve(chosen)
        Context(model, view, counts_on=True).extend(layout.closing())
        prompt = [*layout.opening(), *clips([frames[index] for index in chosen]), *layout.closing()]
        made = model.sequence(prompt, Cursor())
        store = GrowingStore(model.decoder.shape)
        Context(model, store).extend(prompt)
    torch.testing.assert_close(view._layers[0].keys.all, store._keys[0].all, atol=1e-5, rtol=1e-5)
    assert view._next_positions == [made.cursor.position] * model.decoder.shape.num_layers

"""StreamForest's recipe: it trains on the very prompts of the session, and a stopped or tiny run can be loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stc_lab.api import open_session
from stc_lab.backbones.streamforest import StreamForest
from stc_lab.backbones.streamforest.checkpoint import save_streamforest
from stc_lab.backbones.streamforest.model import BEFORE_VIDEO, StreamForestVideoModel, after_video
from stc_lab.cachers.none import NoCacher
from stc_lab.memories.base import PruneOnRead, Query
from stc_lab.memories.streamforest import ForestSizes, StreamForestMemory, time_message, unit_pruner
from stc_lab.pocket.world.questions import PocketQuestion
from stc_lab.pocket.world.render import coded_frames
from stc_lab.pocket.world.script import sample_script
from stc_lab.pocket.world.vocabulary import NATIVE_FPS
from stc_lab.pruners.none import NoPruner
from stc_lab.pruners.stc import STCPruner
from stc_lab.training import recipes
from stc_lab.training.batches import QuestionEncoder
from stc_lab.training.models.streamforest import POCKET_SIZES, new_pocket_streamforest, pocket_tokenizer
from stc_lab.training.streamforest import (
    ForestLearner,
    View,
    ViewMix,
    forest_questions,
    make_batch,
    message_ids,
    questions_at,
    see_views,
    stored_view,
    time_code,
    unit_sizes,
)
from stc_lab.types import Question

NUM_FRAMES = 10
"""Enough for an event, a window and the newest frame at the pocket's sizes."""
OPTIONS = ("red", "blue", "green", "cyan")
ASKED = PocketQuestion(9.2, "what color is the ring now ?", OPTIONS, "C", "color_now", "realtime")
QUESTION = Question("q", 9.2, ASKED.text, OPTIONS, "C")


@pytest.fixture(scope="module")
def encoder() -> QuestionEncoder:
    return forest_questions(pocket_tokenizer())


@pytest.fixture(scope="module")
def learner(encoder: QuestionEncoder) -> ForestLearner:
    return ForestLearner(new_pocket_streamforest().eval(), encoder)


@pytest.fixture(scope="module")
def backbone(learner: ForestLearner, tmp_path_factory: pytest.TempPathFactory) -> StreamForestVideoModel:
    """The untrained model through a checkpoint folder."""
    folder = tmp_path_factory.mktemp("untrained")
    save_streamforest(learner.model, learner.encoder.tokenizer, folder, POCKET_SIZES)
    return StreamForest(checkpoint=str(folder), max_new_tokens=1).load(dtype=torch.float32)


@pytest.fixture(scope="module")
def view(learner: ForestLearner) -> View:
    """One reading of a stream, in full precision."""
    script = replace(sample_script(5, 12), duration_s=NUM_FRAMES)
    ((time_s, read),) = see_views(learner.model, ForestSizes(**POCKET_SIZES), script, [NUM_FRAMES - 1])
    return View(script, time_s, read.tokens.numpy(), unit_sizes(read))


@pytest.mark.parametrize("last_s", [3, 9, 27])
def test_training_prompts_are_those_of_the_session(encoder, last_s):
    row = encoder([[ASKED]]).ids[0, 0].tolist()
    message = time_message("short_online_v2", last_s + 1, 0.0, float(last_s))
    asked = encoder.tokenizer(after_video(QUESTION, message) + "C<|im_end|>", add_special_tokens=False).input_ids
    before = encoder.tokenizer(BEFORE_VIDEO, add_special_tokens=False).input_ids
    assert encoder.init_ids.tolist() == before
    assert message_ids(encoder, last_s).tolist() + row == asked
    assert encoder.tokenizer.unk_token_id not in before + asked


@pytest.mark.parametrize("pruner", [NoPruner(), STCPruner(keep_ratio=0.3)])
def test_training_reads_and_answers_what_the_session_does(backbone, encoder, learner, view, pruner):
    session = open_session(backbone, NoCacher(), pruner, StreamForestMemory())
    session.push(coded_frames(view.script)[::NATIVE_FPS], list(map(float, range(NUM_FRAMES))))
    other = replace(ASKED, text="where is the ring now ?")
    batch = make_batch([view], [[other, ASKED]], encoder, unit_pruner(pruner, session.memory.forest.sizes))
    with torch.inference_mode():
        (prefix,) = learner.prefixes(batch)
        logits = learner.logits(batch)[0, 1]
        before, after = len(encoder.init_ids), len(message_ids(encoder, view.time_s))
        prune = PruneOnRead(backbone.project_merged, pruner)
        *_, clip = session.memory.read(Query(QUESTION, QUESTION.query), [], prune).segments
        torch.testing.assert_close(prefix[before:-after], clip.tokens, atol=1e-4, rtol=1e-4)
    letter_at = int((batch.questions.letter[0, 1] >= 0).int().argmax())
    torch.testing.assert_close(logits[letter_at], session.ask(QUESTION).first_logits, atol=1e-3, rtol=1e-3)


def test_questions_are_asked_at_the_newest_frame(view):
    questions = questions_at(view, 6, 0, {})
    assert len(questions) > 2 and {int(q.time_s) for q in questions} == {view.time_s}
    assert len({q.text for q in questions}) == len(questions)


def test_time_code_tells_seconds_apart_and_is_linear(learner):
    table = torch.randn(7, 96)
    torch.testing.assert_close(time_code(table, 128).mean(0), time_code(table.mean(0, keepdim=True), 128)[0])


@pytest.mark.slow
def test_a_tiny_run_makes_a_checkpoint_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One step of each stage; the tower stays ReKV's, everything else moves, and the folder answers."""
    monkeypatch.setitem(recipes.NUM_STREAMS, "streamforest", {12: 1})
    mix = ViewMix((0.1,), (1.0,), durations=(12,), duration_weights=(1.0,), tokens_per_batch=700)
    monkeypatch.setitem(recipes.FOREST_MIXES, 0, mix)
    for stage in recipes.STREAMFOREST:
        if stage.name in ("projector", "memory"):
            replace(stage, num_steps=1).run(tmp_path)
    recipes.export_streamforest(tmp_path, tmp_path / "out")
    backbone = StreamForest(checkpoint=str(tmp_path / "out")).load(dtype=torch.float32)
    start = new_pocket_streamforest()
    assert StreamForestMemory().sizes(backbone.facts).quota == POCKET_SIZES["quota"]
    old = dict(start.named_parameters())
    moved = {n.partition(".")[0] for n, p in backbone.model.named_parameters() if not torch.equal(p, old[n])}
    assert moved == {"projector", "language"}
    view = stored_view(recipes.forest_features(tmp_path)[12], 0, 0)
    assert len(view.tokens) == sum(map(sum, view.sizes)) and view.script == sample_script(1 << 42, 12)

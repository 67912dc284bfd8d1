"""Dispider's recipe: it trains on what its sessions read, and its labels say what a watcher would."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stc_lab.api import open_session
from stc_lab.backbones.dispider import Dispider
from stc_lab.backbones.dispider.model import DispiderVideoModel
from stc_lab.cachers.none import NoCacher
from stc_lab.memories.dispider import DispiderMemory, Judgement, streaming_sequence
from stc_lab.pocket.world.labels import BACKGROUND, WATCHED, States, follow_watch, relevant_clips, sample_watches
from stc_lab.pocket.world.questions import PocketQuestion
from stc_lab.pocket.world.render import coded_frames
from stc_lab.pocket.world.script import Script, Track, sample_script
from stc_lab.pruners.none import NoPruner
from stc_lab.training import recipes
from stc_lab.training.batches import CELLS, Mix
from stc_lab.training.dispider_compressor import ClipMix, Compressor, JudgeSequence, asked_at_end, clip_views
from stc_lab.training.dispider_reaction import (
    FrozenCompressor,
    ReactionBatch,
    ReactionLearner,
    Row,
    dispider_questions,
)
from stc_lab.training.features import FeatureCache, clip_features
from stc_lab.training.models.dispider import new_pocket_dispider, pocket_tokenizer, save_pocket_dispider
from stc_lab.training.vision import DispiderEncoder
from stc_lab.types import Question

NUM_FRAMES = 6
STAGES = ("vision", "compressor", "clips", "binding", "reaction")
OPTIONS = ("red", "blue", "green", "cyan")
ASKED = PocketQuestion(5.2, "what color is the ring now ?", OPTIONS, "C", "color_now", "realtime")
QUESTION = Question("q", 5.2, ASKED.text, OPTIONS, "C")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> DispiderVideoModel:
    folder = save_pocket_dispider(new_pocket_dispider(), tmp_path_factory.mktemp("untrained"))
    return Dispider(checkpoint=str(folder)).load(dtype=torch.float32)


@pytest.fixture(scope="module")
def cache(backbone: DispiderVideoModel, tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    """One short stream."""
    encoder, script = DispiderEncoder(backbone.model), replace(sample_script(5, 8), duration_s=NUM_FRAMES)
    return FeatureCache(tmp_path_factory.mktemp("features"), 8, 1).build(lambda *_: clip_features(encoder, script))


@pytest.fixture(scope="module")
def session(backbone: DispiderVideoModel):
    session = open_session(backbone, NoCacher(), NoPruner(), DispiderMemory())
    frames = coded_frames(replace(sample_script(5, 8), duration_s=NUM_FRAMES))[::4]
    session.push(frames, list(map(float, range(NUM_FRAMES))))
    return session


def test_perception_is_that_of_the_session(backbone, session, cache):
    """A whole clip and one of two frames; left out tokens leave gaps, so nothing else moves."""
    compressor = FrozenCompressor(Compressor(backbone.model, pocket_tokenizer()))
    memories = compressor(cache, 0, NUM_FRAMES)
    moment = session.memory.moment()
    clips = moment.clips
    assert [len(memory) for memory in memories.memory] == [4, 2]
    for clip, memory, indicator in zip(clips, memories.memory, memories.indicators, strict=True):
        torch.testing.assert_close(memory, clip.memory, atol=5e-3, rtol=5e-3)
        torch.testing.assert_close(indicator, clip.indicator, atol=5e-3, rtol=5e-3)
    torch.testing.assert_close(memories.summary, moment.summary, atol=1e-2, rtol=1e-2)


def test_judge_reads_what_a_watcher_reads(backbone, session):
    clips, judge = session.memory.moment().clips, session.memory.judge
    compressor = Compressor(backbone.model, pocket_tokenizer())
    memories, indicators = [clip.memory[None] for clip in clips], torch.stack([clip.indicator for clip in clips])[None]
    for asked_at, answered_at in ((0, ()), (1, ()), (0, (1,))):
        pieces = streaming_sequence(2, asked_at, answered_at)
        with torch.inference_mode():
            (state,), _ = compressor.judge([JudgeSequence(0, pieces, ASKED.text)], memories, indicators)
            embeds, _ = backbone.compressor.embeds(pieces, ASKED.text, clips)
            expected = judge.ask(ASKED.text, clips, "start") if not (asked_at or answered_at) else None
        rows = compressor.decoder(inputs_embeds=embeds[None]).last_hidden_state[0, -1]
        torch.testing.assert_close(state, rows, atol=1e-4, rtol=1e-4)
        if expected is not None:
            assert compressor.scores(state[None]).item() == pytest.approx(expected.score, abs=1e-4)
            cosine = compressor.similarity(state[None], indicators)[0] * 0.1
            torch.testing.assert_close(cosine, expected.cosine, atol=1e-5, rtol=0)


def test_prompts_are_those_of_the_session(backbone, session):
    encoder = dispider_questions(pocket_tokenizer())
    model = ReactionLearner(backbone.model, encoder)
    moment = session.memory.moment()
    clips, summary = moment.clips, moment.summary
    tokens = [clip.tokens.view(clip.num_frames, CELLS, -1) for clip in clips]
    row = Row(tokens, [clip.memory for clip in clips], summary, [ASKED])
    questions = encoder([[ASKED]])
    chosen = Judgement(summary[0], 0.0, summary[:, 0], summary[:, 0], (0, 1), 0)
    reading = session.memory.reading(moment, chosen, 0)
    expected = backbone.sequence([*reading.segments, *backbone.layout.question(QUESTION, "generate")]).embeds
    prefix, ids = model.prefix_of(row), questions.ids[0, 0]
    torch.testing.assert_close(torch.cat([prefix, model.decoder.embed_tokens(ids[:-2])]), expected)
    answer = encoder.tokenizer("C<|im_end|>", add_special_tokens=False).input_ids
    assert ids[-2:].tolist() == answer and encoder.tokenizer.unk_token_id not in ids
    with torch.inference_mode():
        batch = ReactionBatch([row, row], encoder([[ASKED], [ASKED]]))
        hidden = model.hidden(*model.prefix(batch), batch.questions.ids)
        plain = model.decoder(inputs_embeds=expected[None]).last_hidden_state[0]
    torch.testing.assert_close(hidden[1, 0, : len(ids) - 2], plain[len(prefix) :], atol=1e-4, rtol=1e-4)


def test_left_out_tokens_leave_the_others_in_their_places(backbone, cache):
    """What the cheap first steps of the compressor read is the whole clip with holes."""
    compressor = Compressor(backbone.model, pocket_tokenizer())
    (view,) = clip_views(np.random.default_rng(0), cache, [0], 4, 40)
    kinds = cache.load(0)["kinds"][:4]
    assert view.seen.shape == (1, 4, 40, 128) and (view.cells.diff(dim=-1) > 0).all()
    picked = np.take_along_axis(kinds, view.cells[0].numpy(), axis=1)
    shown = (kinds != BACKGROUND).sum(axis=1)
    assert ((picked != BACKGROUND).sum(axis=1) == np.minimum(shown, 40)).all()
    with torch.inference_mode():
        memory, indicator = compressor.perceive(view)
    assert memory.shape == (1, 4, 128) and indicator.shape == (1, 128)


def _script() -> Script:
    """A red ring from 5 s on that turns blue at 9 s; a green square that is gone after 3 s."""
    ring = Track("ring", 12, ((4.5, 99.0),), ((4.5, "red"), (8.5, "blue")), ((0.0, 20.0, 20.0),))
    square = Track("square", 12, ((0.0, 3.5),), ((0.0, "green"),), ((0.0, 90.0, 90.0),))
    return Script(1, 16, (ring, square))


def test_a_watched_question_is_answered_when_its_answer_comes_or_changes():
    states = States.of(_script())
    at_ends = states.answers("color_now", "ring")[3::4]
    assert follow_watch(at_ends, 0, 5)[0] == (2, 3)  # red in the second clip, blue in the third
    assert follow_watch(at_ends, 3, 5)[0] == (4,)  # asked when it is there already: at once, and once
    assert follow_watch(states.answers("where_now", "ring")[3::4], 0, 5)[0] == (2,)
    assert follow_watch(states.answers("shape_now", "green")[3::4], 0, 5)[0] == (1,)
    assert follow_watch(states.answers("color_now", "plus")[3::4], 0, 5)[0] == ()


def test_watches_are_drawn_with_both_labels_and_consistent_histories():
    states = States.of(_script())
    watches = sample_watches(np.random.default_rng(0), states, 4, 4, 12)
    assert {watch.responds for watch in watches} == {True, False}
    for watch in watches:
        assert watch.text in {form.format(word) for form in WATCHED.values() for word in watch.text.split()}
        assert all(watch.asked_at < point < watch.num_clips for point in watch.answered_at)
        streaming_sequence(watch.num_clips, watch.asked_at, watch.answered_at)


def test_answers_lie_in_the_clips_that_show_them():
    states = States.of(_script())

    def ask(text: str, right: str, task: str, group: str) -> list[int]:
        question = PocketQuestion(15.2, text, (right, "x", "y", "z"), "A", task, group)
        return np.flatnonzero(relevant_clips(states, question, 16, 4)).tolist()

    assert ask("what color is the ring now ?", "blue", "color_now", "realtime") == [3]
    assert ask("what color was the ring before ?", "red", "color_before", "retrospective") == [1, 2]
    assert ask("which shape was here but is gone ?", "square", "which_gone", "retrospective") == [0]
    assert ask("how many shapes have come so far ?", "2", "count_so_far", "prospective") == [0, 1]


def test_questions_at_the_end_of_a_cut_stream_know_nothing_of_what_follows():
    script = sample_script(7, 12)
    for question in asked_at_end(script, 7, 8, seed=1):
        assert int(question.time_s) == 6


@pytest.mark.slow
def test_a_tiny_run_makes_a_loadable_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every stage for a step or two; what is exported is what was trained."""
    folder, target = tmp_path / "run", tmp_path / "out"
    monkeypatch.setitem(recipes.NUM_STREAMS, "dispider", {8: 1, 20: 1})
    for mixes in (recipes.PARTLY, recipes.WHOLE):
        monkeypatch.setitem(mixes, 0, ClipMix(12, 300, long_share=0.5))
    mix = Mix((6,), (1.0,), (8, 20), (0.5, 0.5), tokens_per_batch=300, num_questions=3)
    monkeypatch.setitem(recipes.READ, 0, mix)
    left = {stage.name: replace(stage, num_steps=2).run(folder) for stage in recipes.DISPIDER if stage.name in STAGES}
    recipes.export_dispider(folder, target)
    loaded = Dispider(checkpoint=str(target)).load(dtype=torch.float32).model
    trained = ((left["reaction"], loaded.language.model), (left["clips"], loaded.compressor["model"]))
    for ours, theirs in trained:
        torch.testing.assert_close(dict(theirs.state_dict()), dict(ours.decoder.state_dict()))
    ours = left["reaction"].compress_projector[0].weight
    torch.testing.assert_close(loaded.compress_projector[0].weight, ours)

"""The recipe: packed questions equal plain ones, stages resume exactly, the result is a plain checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoTokenizer, LlavaOnevisionForConditionalGeneration

from stc_lab.backbones.llava_onevision import INIT, answer_prompt
from stc_lab.pocket.tokenizer import build_tokenizer
from stc_lab.pocket.world.labels import cell_labels
from stc_lab.pocket.world.questions import PocketQuestion
from stc_lab.training import recipes, vision
from stc_lab.training.batches import (
    IGNORE,
    INIT_PROMPT,
    BindingBatches,
    Mix,
    QuestionEncoder,
    StillBatches,
    SymbolBatches,
    TokenBatches,
)
from stc_lab.training.codes import VisualCode
from stc_lab.training.features import FeatureCache, stream_tokens
from stc_lab.training.language import StreamLearner
from stc_lab.training.loop import Training, muon_and_adamw, train
from stc_lab.training.models.llava import new_pocket
from stc_lab.types import Question


@pytest.fixture(scope="module")
def encoder() -> QuestionEncoder:
    return QuestionEncoder(build_tokenizer())


@pytest.fixture
def language(encoder) -> StreamLearner:
    return StreamLearner(new_pocket(encoder.tokenizer), encoder)


def test_training_prompts_are_those_of_the_backbone(encoder):
    options = ("red", "blue", "green", "cyan")
    asked = PocketQuestion(3.2, "what color is the ring now ?", options, "C", "color_now", "realtime")
    row = encoder([[asked]]).ids[0, 0].tolist()
    prompt = answer_prompt(Question("q", 3.2, asked.text, options, "C"))
    assert INIT_PROMPT == INIT
    assert row == encoder.tokenizer(prompt + "C<|im_end|>").input_ids
    assert encoder.tokenizer.unk_token_id not in row


def test_every_word_of_the_world_is_known(encoder):
    for step in range(4):
        batch = SymbolBatches(encoder, {0: Mix((6,), (1.0,), (12,), (1.0,))}, seed=9)[step]
        assert not (batch.questions.ids == encoder.tokenizer.unk_token_id).any()
        labelled = (batch.questions.letter != IGNORE).sum(-1)
        assert set(labelled.unique().tolist()) <= {0, 2}


def test_packed_questions_equal_plain_ones(encoder, language):
    batch = SymbolBatches(encoder, {0: Mix((5,), (1.0,), (12,), (1.0,), tokens_per_batch=700)}, seed=3)[0]
    tokens = torch.randn(*batch.cells.shape, 128)
    with torch.no_grad():
        packed = language.hidden(*language.behind(tokens, batch.questions.frames_seen), batch.questions.ids)
        embed = language.decoder.embed_tokens
        for q in (0, 7):
            seen = tokens[1, : batch.questions.frames_seen[1, q]].flatten(0, 1)
            plain = torch.cat([embed(encoder.init_ids), seen, embed(batch.questions.ids[1, q])])
            reference = language.decoder(inputs_embeds=plain[None]).last_hidden_state[0]
            expected = reference[-batch.questions.ids.shape[-1] :]
            torch.testing.assert_close(packed[1, q], expected, atol=2e-5, rtol=0)


def test_code_of_an_uncovered_cell_is_background_in_its_place():
    code = VisualCode(128)
    labels = cell_labels(vision.dense_scene(np.random.default_rng(0)), np.zeros(1))
    codes = code(labels)[0]
    empty = torch.from_numpy(labels.coverage[0] == 0)
    rest = codes[empty] / 3.0 - code.place[empty]
    assert empty.any() and (rest - rest[0]).abs().max() < 1e-5
    assert {"ring", "red", "top-left"} <= code.words().keys()


@pytest.mark.parametrize("kind", [BindingBatches, StillBatches])
def test_small_language_stages_learn(encoder, language, kind):
    language.start_words_from_code()
    batch = kind(encoder, 1, 4)[0]
    optimizer = torch.optim.AdamW(language.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        torch.manual_seed(0)
        loss, metrics = language.loss(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0] and 0 <= metrics["acc"] <= 1


def test_a_killed_stage_goes_on_exactly(tmp_path, monkeypatch):
    whole, resumed = _line(), _line()
    train(_stage(whole, 8), tmp_path / "whole")
    monkeypatch.setattr("stc_lab.training.loop.SAVE_EVERY_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train(_stage(resumed, 8, stop_at=5), tmp_path / "killed")
    fresh = _line(seed=1)
    train(_stage(fresh, 8), tmp_path / "killed")
    assert torch.equal(fresh.weight, whole.weight)


def test_features_that_are_there_are_not_made_again(tmp_path):
    """A build that was stopped goes on; what a file holds is what was made."""
    made = []

    def make(script, index):
        made.append(index)
        if index == 2 and len(made) == 3:
            raise KeyboardInterrupt
        return {"seeds": np.array([script.seed, index])}

    cache = FeatureCache(tmp_path, 8, 4)
    with pytest.raises(KeyboardInterrupt):
        cache.build(make)
    cache.build(make)
    assert made == [0, 1, 2, 2, 3]
    assert cache.stack("seeds", [3, 0]).tolist() == [[cache.script(3).seed, 3], [cache.script(0).seed, 0]]


def _line(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 1)


def _stage(model: nn.Linear, num_steps: int, stop_at: int | None = None) -> Training:
    def loss(step: int):
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        value = (model(x) - x.sum(-1, keepdim=True)).square().mean()
        return value, {"loss": value.item()}

    return Training("line", model, [torch.optim.AdamW(model.parameters(), lr=0.1)], loss, num_steps, warmup_steps=2)


def test_vision_stage_features_and_export(tmp_path, encoder):
    """One step of each expensive part; what is exported is what was trained."""
    model = vision.CellProbe(vision.LlavaEncoder(new_pocket(encoder.tokenizer)), num_pictures=1)
    optimizers = muon_and_adamw(model, model.layers, 0.02, 2e-3)
    train(Training("vision", model, optimizers, lambda s: model.loss(np.random.default_rng(s)), 1), tmp_path)
    cache = FeatureCache(tmp_path / "features", 8, 1)
    cache.build(lambda script, _: {"tokens": stream_tokens(model.encoder, script).numpy()})
    seen = cache.stack("tokens", [0])
    assert seen.shape == (1, 8, 196, 128) and np.isfinite(seen).all()
    batch = TokenBatches({8: cache}, encoder, {0: Mix((7,), (1.0,), (8,), (1.0,))}, seed=1)[0]
    assert batch.tokens.shape[1:] == (8, 7, 128) and (batch.cells.diff(dim=-1) > 0).all()
    language = StreamLearner(new_pocket(encoder.tokenizer), encoder)
    train(Training("streams", language, [], lambda s: language.loss(batch), 1), tmp_path)
    recipes.export_rekv(tmp_path, tmp_path / "out")
    loaded, info = LlavaOnevisionForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    torch.testing.assert_close(loaded.model.vision_tower.state_dict(), model.encoder.tower.state_dict())
    torch.testing.assert_close(loaded.model.language_model.state_dict(), language.decoder.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("ring red A").input_ids == encoder.tokenizer("ring red A").input_ids

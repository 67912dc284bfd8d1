"""The recipe of the Qwen-VL pockets: turns are those of the sessions, packed questions equal plain ones."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from stc_lab.api import choice, load, open_session
from stc_lab.cachers.none import NoCacher
from stc_lab.pocket.world.commentary import MOST_WORDS, lines
from stc_lab.pocket.world.questions import PocketQuestion
from stc_lab.pocket.world.script import Script, Track, sample_script
from stc_lab.pruners.uniform import UniformPruner
from stc_lab.training import recipes
from stc_lab.training.batches import IGNORE
from stc_lab.training.codes import PairCode
from stc_lab.training.features import label_pairs, pair_times
from stc_lab.training.language import TurnLearner
from stc_lab.training.models.qwen_vl import new_pocket_livecc, new_pocket_streamingvlm, save_pocket
from stc_lab.training.packed import packed_states
from stc_lab.training.qwen_batches import LETTER, SPEECH, TurnBatches, TurnMix, as_asked, patch_times
from stc_lab.training.qwen_turns import LAYOUTS, TEXT, PatchStream, Vocabulary
from stc_lab.types import Question

NEW = {"livecc": new_pocket_livecc, "streamingvlm": new_pocket_streamingvlm}
OPTIONS = ("red", "blue", "green", "cyan")
ASKED = PocketQuestion(0.0, "what color is the ring now ?", OPTIONS, "C", "color_now", "realtime")


@pytest.fixture(scope="module")
def words() -> Vocabulary:
    return Vocabulary()


class Watched:
    """A decoder that notes where it is told to place tokens."""

    def __init__(self, decoder) -> None:
        self._decoder, self.placed = decoder, []

    def __getattr__(self, name: str):
        return getattr(self._decoder, name)

    def __call__(self, embeds, store, positions, **more):
        self.placed.append(positions)
        return self._decoder(embeds, store, positions, **more)


@pytest.fixture(scope="module", params=["livecc", "streamingvlm"])
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory) -> Path:
    return save_pocket(NEW[name](start=None), tmp_path_factory.mktemp("fresh") / name, name)


@pytest.mark.parametrize(("fps", "last_s"), [(2.0, 4), (1.0, 4), (1.0, 7), (1.0, 22)])
def test_training_reads_what_a_session_reads(
    words: Vocabulary, name: str, folder: Path, fps: float, last_s: int
) -> None:
    """Ids and positions of the stream and of a question at its end; at 22 s StreamingVLM has let go of a lot."""
    model = load(name, checkpoint=str(folder), fps=fps, dtype=torch.float32)
    own = {"fps": fps, "text_window_s": 16, "vision_window_s": 16} if name == "streamingvlm" else {}
    model.decoder = watched = Watched(model.decoder)
    memory = choice("memory", name, commentary=False, **own)
    session = open_session(model, NoCacher(), UniformPruner(budget=5), memory)
    times_s = [n / fps for n in range(int(last_s * fps) + 1)]
    session.push([np.full((108, 108, 3), 60, np.uint8)] * len(times_s), times_s)
    question = Question("q", last_s + 0.2, ASKED.text, OPTIONS, "C")
    read, ids = session.memory.context if name == "livecc" else session.memory.sequence, []
    rewind = read.rewind
    read.rewind = lambda mark: (ids.extend(read.ids), rewind(mark))
    session.ask(question)

    stream, reading = _reading(words, name, fps, last_s + 1, last_s + 0.2, session)
    expected = reading.prefix.ids[: reading.visible[0]] + reading.questions[0].ids[:-2]
    assert ids == expected
    parts = reading.prefix.positions[:, : reading.visible[0]], reading.questions[0].positions[:, :-2]
    placed = watched.placed[-1] if name == "streamingvlm" else torch.cat(watched.placed, dim=1)
    torch.testing.assert_close(placed, torch.cat(parts, dim=1))
    if (name, last_s) == ("streamingvlm", 22):
        assert min(p for p in reading.prefix.patches if p != TEXT) == 3 and stream.num_pairs == 11


def _reading(words: Vocabulary, name: str, fps: float, duration_s: int, time_s: float, session):
    """The same stream as training reads it, with the cells that the session kept."""
    times, halves = patch_times(duration_s, fps)
    kept = UniformPruner(budget=5)(torch.zeros(196, 4)).positions
    stream = PatchStream(fps, len(times) - len(halves), kept.expand(len(times), -1), halves)
    layout = LAYOUTS[name](words)
    asked = as_asked(PocketQuestion(time_s, ASKED.text, OPTIONS, "C", "", ""))
    return stream, layout.read(stream, [""] * len(layout.turns(stream.num_pairs)), [asked])


def _mix(**changes) -> TurnMix:
    return TurnMix((5,), (1.0,), (8,), (1.0,), tokens_per_batch=500, num_questions=3, **changes)


def test_packed_questions_equal_plain_ones(words: Vocabulary, name: str, folder: Path) -> None:
    model = load(name, checkpoint=str(folder), dtype=torch.float32)
    batch = TurnBatches(LAYOUTS[name](words), {0: _mix()}, seed=3)[1]
    x = model.decoder.embed(batch.ids)
    x[batch.is_visual] = torch.randn(int(batch.is_visual.sum()), 128, generator=torch.Generator().manual_seed(0))
    text, num_prefix = model.model.model.language_model, batch.ids.shape[1] - batch.question.shape[1]
    with torch.no_grad():
        *_, last = packed_states(text, x, batch.positions, batch.visible, batch.question)
        for number in (0, 2):
            own = batch.question[0] == number
            sees = torch.cat((torch.arange(num_prefix) < batch.visible[0][own][0], own))
            plain = text(inputs_embeds=x[:1, sees], position_ids=batch.positions[:, :1, sees], use_cache=False)
            expected = plain.last_hidden_state[0, -int(own.sum()) :]
            torch.testing.assert_close(text.norm(last[0, num_prefix:][own]), expected, atol=2e-4, rtol=0)


def test_labels_are_what_the_model_says(words: Vocabulary, name: str) -> None:
    layout = LAYOUTS[name](words)
    silent, speaking = (TurnBatches(layout, {0: _mix(silent_share=s)}, seed=3)[1] for s in (1.0, 0.0))
    assert (silent.labels[SPEECH] == IGNORE).all() and (speaking.labels[SPEECH] != IGNORE).any()
    said = [row[row != IGNORE].tolist() for row in speaking.labels[SPEECH]]
    assert all(row[-1] in (words.im_end_id, words.silence_id) and words.silence_id in row for row in said)
    letters = speaking.labels[LETTER]
    names = set(words.tokenizer.convert_ids_to_tokens(letters[letters != IGNORE].unique().tolist()))
    assert names <= {*"ABCD", "<|im_end|>"} and words.tokenizer.unk_token_id not in speaking.ids


def test_what_is_said_of_a_script() -> None:
    stay = Track("ring", 12, ((0.0, 20.0),), ((0.0, "red"), (3.5, "blue")), ((4.5, 20.0, 20.0), (6.5, 90.0, 20.0)))
    visit = Track("plus", 12, ((1.5, 3.5),), ((1.5, "green"),), ((0.0, 90.0, 90.0),))
    said = lines(Script(1, 8, (stay, visit)), [[t + 0.5] for t in range(8)])
    assert said[:4] == ["red ring top-left", "green plus appears bottom-right", "", "ring turns blue green plus leaves"]
    assert sorted(said[4:]) == ["", "", "", "ring moves top-right"]
    busy = [line for seed in range(40) for line in lines(sample_script(seed, 12), [[0.5, 1.5, 2.5], [11.5]])]
    assert max(len(line.split()) for line in busy) <= MOST_WORDS and any(busy)


def test_codes_of_pairs_say_what_has_changed() -> None:
    track = Track("ring", 14, ((0.5, 9.0),), ((0.5, "red"),), ((0.0, 30.0, 30.0),))
    labels = label_pairs(Script(3, 4, (track,)), [(0.0, 0.5), (1.0, 1.5)])
    assert labels.has_changed[0].any() and not labels.has_changed[1].any()
    code = PairCode(128)
    came, stays = code.of_pairs(labels)
    changed = torch.from_numpy(labels.has_changed[0])
    assert torch.equal(came[~changed], stays[~changed])
    assert not torch.isclose(came[changed], stays[changed]).all(-1).any()


@pytest.mark.slow
def test_places_are_learned_from_positions_alone(words: Vocabulary) -> None:
    torch.manual_seed(0)
    language = TurnLearner(new_pocket_livecc(start=None), words)
    batch = TurnBatches(LAYOUTS["livecc"](words), {0: _mix()}, seed=3)[1]
    optimizer, errors = torch.optim.AdamW(language.parameters(), lr=3e-3), []
    for _ in range(8):
        loss, metrics = language.place_loss(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        errors.append(metrics["place"])
    assert errors[-1] < errors[0]


def _one_picture(name: str):
    probe = recipes.qwen_probe(name)
    probe.num_pictures = 1
    return probe


@pytest.mark.slow
def test_a_short_recipe_makes_a_checkpoint(name: str, tmp_path: Path, monkeypatch) -> None:
    """One step of each stage; what is loaded is what was trained, and it runs."""
    monkeypatch.setattr(recipes, "Prefetcher", lambda batches: batches)  # no process of its own for two batches
    monkeypatch.setitem(recipes.NUM_STREAMS, name, {8: 1})
    labels, real = _mix(rates=(1.0,), rate_weights=(1.0,)), _mix(real_share=1.0)
    stages = {stage.name: stage for stage in recipes.RECIPES[name]}
    vision = replace(stages["vision"], num_steps=1, learner=lambda: _one_picture(name)).run(tmp_path)
    tokens = recipes.qwen_features(name, "vision", tmp_path)[8].stack("tokens", [0])
    assert tokens.shape == (1, len(pair_times(8)), 196, 128) and np.isfinite(tokens).all()
    muon = recipes.muon(0.006, 1e-3)
    begin = partial(recipes.turn_beginner, name)
    places = recipes._turns(name, {0: labels}, 15)
    recipes.Stage("places", begin, places, 2, muon, loss="place_loss").run(tmp_path)
    data = recipes._turns(name, {0: real}, 13, "vision")
    trained = recipes.Stage("fluency", partial(recipes.turn_learner, name), data, 1, muon, "places").run(tmp_path)
    exported = recipes.export_qwen(name, "vision", tmp_path, tmp_path / name)
    model = load(name, checkpoint=str(exported), dtype=torch.float32)
    state = model.model.model.language_model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in trained.decoder.state_dict().items())
    torch.testing.assert_close(model.model.model.visual.state_dict(), vision.encoder.visual.state_dict())
    session = open_session(model, NoCacher(), UniformPruner(budget=5))
    session.push([np.zeros((108, 108, 3), np.uint8)] * 3, [0.0, 0.5, 1.0])
    assert session.ask(Question("q", 1.2, ASKED.text, OPTIONS, "C")).prediction in "ABCD"

"""The pocket Dispider before training: what it takes over, that it runs, and that it stays small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stc_lab.api import open_session
from stc_lab.backbones.checkpoints import POCKET_ROOT
from stc_lab.backbones.dispider import Dispider
from stc_lab.backbones.dispider.model import after_video, before_video
from stc_lab.backbones.dispider.networks import CLIP_TEXT, DispiderModel
from stc_lab.cachers.stc import STCCacher
from stc_lab.memories.dispider import DispiderMemory
from stc_lab.pocket.tokenizer import build_tokenizer
from stc_lab.pruners.stc import STCPruner
from stc_lab.training.models.dispider import new_pocket_dispider, pocket_tokenizer, save_pocket_dispider
from stc_lab.types import Question

QUESTION = Question("q", 9.0, "what color is the ring now ?", ("red", "blue"), "A")


@pytest.fixture(scope="module")
def model() -> DispiderModel:
    return new_pocket_dispider().eval()


@torch.no_grad()
def test_what_the_rekv_pocket_knows_is_taken_over(model: DispiderModel) -> None:
    trained = load_file(POCKET_ROOT / "rekv" / "model.safetensors")
    words = trained["language_model.model.embed_tokens.weight"]
    for text in (model.language.model, model.compressor["model"]):
        assert torch.equal(text.embed_tokens.weight[: len(words)], words)
        name = "layers.2.mlp.up_proj.weight"
        assert torch.equal(text.state_dict()[name], trained[f"language_model.model.{name}"])
    assert model.language.lm_head.weight is model.language.model.embed_tokens.weight
    patch = torch.randn(5, 96)
    projector = [trained[f"multi_modal_projector.linear_1.{part}"] for part in ("weight", "bias")]
    for part in (model.clip_projector, model.mm_projector["mlp"]):
        torch.testing.assert_close(part[0](patch.repeat(1, 4)), torch.nn.functional.linear(patch, *projector))


def test_new_words_leave_the_old_ones_alone() -> None:
    old, new = build_tokenizer(), pocket_tokenizer()
    assert all(new.get_vocab()[word] == number for word, number in old.get_vocab().items())
    prompt = before_video() + after_video(QUESTION)
    texts = [prompt, CLIP_TEXT.format(start=16, end=28), "what is new ?<to_do>", "<has_answer>", "<keep_silent>"]
    for text in texts:
        assert new.unk_token_id not in new(text, add_special_tokens=False).input_ids, text
    assert len(new("<to_do>", add_special_tokens=False).input_ids) == 1
    assert len(new(CLIP_TEXT.format(start=16, end=28)).input_ids) == 7


def test_pocket_runs_from_its_folder(model: DispiderModel, tmp_path: Path) -> None:
    folder = save_pocket_dispider(model, tmp_path)
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 10e6
    backbone = Dispider(checkpoint=str(folder), max_new_tokens=2).load(dtype=torch.float32)
    state = backbone.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    session = open_session(backbone, STCCacher(), STCPruner(budget=64), DispiderMemory())
    assert backbone.grid == (14, 14) and session.memory.clip_frames == 4
    session.watch(QUESTION)
    frames = [np.full((108, 108, 3), 40 * i, np.uint8) for i in range(5)]
    reports = session.push(frames, [0.0, 1.0, 2.0, 3.0, 4.0])
    assert [len(report.decisions) for report in reports] == [0, 0, 0, 1, 0]
    answer = session.ask(QUESTION)
    assert answer.details["num_clips"] == 2 and answer.letter_logits.keys() == {"A", "B"}


def test_missing_pocket_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("stc_lab.backbones.checkpoints.POCKET_ROOT", tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint=pocket: no pocket model of"):
        Dispider().facts()

"""Dispider's checkpoints: layouts, what is refused, and that nothing but numbers and settings is read from them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from stc_lab.backbones.checkpoints import Checkpoint
from stc_lab.backbones.dispider import model
from stc_lab.backbones.dispider.checkpoint import COMPRESSOR, official_name, our_name
from stc_lab.backbones.dispider.networks import CLIP_LARGE, DispiderModel, read_sizes
from stc_lab.cachers.none import NoCacher
from stc_lab.cachers.stc import STCCacher
from stc_lab.pruners.none import NoPruner
from stc_lab.pruners.stc import STCPruner
from stc_lab.pruners.vidcom2 import VidCom2Pruner
from stc_lab.types import Question

HUB_ID = "Mar2Ding/Dispider"
INNER = "perception_decision"
Frames = list[np.ndarray]
Make = Callable[..., tuple]


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return shutil.copytree(tiny_folder, tmp_path / "checkpoint")


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def load(settings: tuple) -> model.DispiderVideoModel:
    return settings[0].load(dtype=torch.float32)


def check(settings: tuple, cacher=None, pruner=None) -> None:
    """As before a run."""
    settings[0].check(cacher or NoCacher(), pruner or NoPruner(), settings[1])


def answer_of(setup: Any, frames: Frames) -> tuple:
    session = setup.open(NoCacher(), NoPruner())
    session.push(frames[:7], [float(t) for t in range(7)])
    answer = session.ask(Question("q", 7.0, "What?", ("a", "b"), "A"))
    return answer.text, answer.letter_logits, answer.details


def test_official_layout_makes_the_round_trip(
    offline: None, tiny_folder: Path, tiny_model: DispiderModel, settings: Make
) -> None:
    saved = load_file(tiny_folder / "model.safetensors")
    assert f"{COMPRESSOR}model.vision_tower.vision_tower.vision_model.pre_layrnorm.weight" in saved
    assert {f"{COMPRESSOR}silent_head.weight", "model.clip_projector.2.bias", "lm_head.weight"} <= saved.keys()
    assert all(official_name(our_name(name)) == name for name in saved)
    loaded, original = load(settings()).model, tiny_model
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in loaded.parameters())
    assert not any(buffer.is_meta for buffer in loaded.buffers())
    state = loaded.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in original.state_dict().items())
    ids, frames = torch.tensor([[1, 5, 9, 2]]), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded.language(ids).logits, original.language(ids).logits)
        assert torch.equal(loaded.vision(frames).last_hidden_state, original.vision(frames).last_hidden_state)


def test_first_layout_is_loaded_too(new_dispider: Callable, folder: Path, frames: Frames) -> None:
    """Compressor in a folder of its own with its own weights and a head that is not used; shards with an index."""
    inner = (folder / INNER).rename(folder / "stream_compressor")
    weights = load_file(folder / "model.safetensors")
    own = {name: tensor for name, tensor in weights.items() if name.startswith(COMPRESSOR)}
    rest = {name: tensor for name, tensor in weights.items() if name not in own}
    own = {name.removeprefix(COMPRESSOR): tensor for name, tensor in own.items()}
    own["lm_head.weight"] = own["model.embed_tokens.weight"].clone()
    save_file(own, inner / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    shards = [dict(list(rest.items())[:9]), dict(list(rest.items())[9:])]
    index = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-0000{number}-of-00002.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(shard, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    compressor = {**json.loads((inner / "config.json").read_text()), "mm_vision_select_layer": -2}
    old = {key: value for key, value in compressor.items() if not key.startswith("perception_")}
    (inner / "config.json").write_text(json.dumps(old))
    assert answer_of(new_dispider(checkpoint=str(folder)), frames) == answer_of(new_dispider(), frames)


def test_the_tower_of_the_first_release_is_known(folder: Path) -> None:
    shutil.rmtree(folder / INNER / "vision_tower")
    edit(folder / INNER / "config.json", mm_vision_tower="openai/clip-vit-large-patch14", resolution=64)
    edit(folder / INNER / "config.json", perception_vision_tower=None)
    sizes = read_sizes(Checkpoint("it", folder))
    assert sizes.vision == CLIP_LARGE and (sizes.tokens_per_frame, sizes.mixed_size) == (64, 4096)
    edit(folder / INNER / "config.json", mm_vision_tower="another/tower")
    with pytest.raises(ValueError, match="vision tower 'another/tower' is not known here; put the tower's config.json"):
        read_sizes(Checkpoint("it", folder))


def test_projectors_follow_the_weights(folder: Path, settings: Make) -> None:
    """A single linear layer, whose name has no number, is built as one."""
    weights = load_file(folder / "model.safetensors")
    del weights["model.clip_projector.2.weight"], weights["model.clip_projector.2.bias"]
    for part in ("weight", "bias"):
        weights[f"model.clip_projector.{part}"] = weights.pop(f"model.clip_projector.0.{part}")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    backbone = load(settings(checkpoint=str(folder)))
    assert isinstance(backbone.model.clip_projector, torch.nn.Linear)
    assert backbone.project_flops == 2 * 4 * 64 * 32


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model.compress_projector.2.bias", "remove", r"missing keys: model\.compress_projector\.2\.bias"),
        ("model.embed_tokens.weight", "remove", r"missing keys: model\.embed_tokens\.weight"),
        (f"{COMPRESSOR}model.mm_projector.mlp.4.bias", "add", r"unexpected keys: mm_projector\.mlp\.4\.bias"),
        (f"{COMPRESSOR}silent_head.weight", "reshape", r"mismatched keys: .*compressor\.silent_head\.weight"),
    ],
)
def test_weights_must_fit_exactly(folder: Path, settings: Make, name: str, change: str, message: str) -> None:
    weights = load_file(folder / "model.safetensors")
    if change == "remove":
        del weights[name]
    else:
        weights[name] = torch.zeros(3 if change == "add" else (2, 24))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"weights do not fit the model; {message}"):
        load(settings(checkpoint=str(folder)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topk": 0}, "memory.topk=0: must be at least 1"),
        ({"clip_frames": -1}, "memory.clip_frames=-1: must be at least 1"),
        ({"clips": "shots"}, "memory.clips=shots: must be one of uniform, scenes"),
        ({"question_place": "end"}, "memory.question_place=end: must be one of start, now, offline, summary"),
        ({"scene_threshold": 1.5}, "memory.scene_threshold=1.5: a cosine"),
        ({"answer_reader": "guess"}, "backbone.answer_reader=guess: must be one of"),
        ({"tokens_per_frame": 64}, "joins patches to 2x2 tokens; set backbone.tokens_per_frame=4"),
        ({"checkpoint": "no/such/folder"}, "no such folder; give pocket, a folder, or a hub id"),
    ],
)
def test_wrong_settings_are_named_before_anything_loads(
    offline: None, monkeypatch: pytest.MonkeyPatch, settings: Make, changes: dict, message: str
) -> None:
    monkeypatch.setattr(model, "load_dispider", None)
    for call in (check, load):
        with pytest.raises(ValueError, match=message):
            call(settings(**changes))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"model_type": "llava"}, "model_type is llava, backbone=dispider needs long"),
        (f"{INNER}/config.json", {"mm_projector_type": "perceiver"}, "mm_projector_type=perceiver, only pool"),
        (f"{INNER}/config.json", {"perception_select_feature": "cls_patch"}, "class token is among its features"),
        (f"{INNER}/config.json", {"resolution": 64}, "resolution=64, but the tower gives 4 tokens"),
        (f"{INNER}/config.json", {"pool_num": 9}, "pool_num=9 does not divide 2x2 tokens"),
        (f"{INNER}/vision_tower/config.json", {"patch_size": 5}, "3x3 patches cannot be joined two by two"),
    ],
)
def test_models_that_cannot_be_built_are_refused(
    folder: Path, settings: Make, file: str, changes: dict, message: str
) -> None:
    edit(folder / file, **changes)
    with pytest.raises(ValueError, match=message):
        check(settings(checkpoint=str(folder)))


@pytest.mark.parametrize(
    "file", ["config.json", f"{INNER}/config.json", f"{INNER}/tokenizer.json", "model.safetensors"]
)
def test_missing_files_are_named(folder: Path, settings: Make, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(ValueError, match=f"{Path(file).name}.* not found in"):
        load(settings(checkpoint=str(folder)))


def test_vocabulary_and_merges_do_for_a_tokenizer(folder: Path, settings: Make) -> None:
    """As Qwen2 checkpoints of that time have them: no tokenizer.json, markers in the tokenizer's settings."""
    expected = load(settings()).loaded
    for place in (folder, folder / INNER):
        words = json.loads((place / "tokenizer.json").read_text())
        (place / "tokenizer.json").unlink()
        (place / "vocab.json").write_text(json.dumps(words["model"]["vocab"]))
        (place / "merges.txt").write_text("#version: 0.2\n")
        added = {str(word.pop("id")): word for word in words["added_tokens"]}
        edit(place / "tokenizer_config.json", tokenizer_class="Qwen2Tokenizer", added_tokens_decoder=added)
    loaded = load(settings(checkpoint=str(folder))).loaded
    text = "What now?<to_do><has_answer><|im_end|>"
    assert loaded.compressor_ids(text) == expected.compressor_ids(text) == loaded.token_ids(text)
    assert (loaded.stop_ids, loaded.silent_id) == (expected.stop_ids, expected.silent_id)


def test_words_without_an_embedding_are_refused(folder: Path, settings: Make) -> None:
    path = folder / INNER / "tokenizer.json"
    words = json.loads(path.read_text())
    words["added_tokens"].append({**words["added_tokens"][-1], "id": 261, "content": "<another>"})
    path.write_text(json.dumps(words))
    with pytest.raises(ValueError, match="a tokenizer has 262 words, its network 261 embeddings"):
        load(settings(checkpoint=str(folder)))


def test_weights_in_pickles_are_not_read(folder: Path, settings: Make) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="model.safetensors not found"):
        load(settings(checkpoint=str(folder)))


def test_methods_that_make_no_sense_are_refused(settings: Make) -> None:
    check(settings(), STCCacher(), STCPruner(budget=2))
    with pytest.raises(ValueError, match=r"pruner.budget=5.*1\.\.4"):
        check(settings(), STCCacher(), STCPruner(budget=5))
    pairs = VidCom2Pruner(budget=2, window_frames=2)
    check(settings(), STCCacher(), pairs)
    with pytest.raises(ValueError, match="memory.clips=scenes: pruner=vidcom2 looks at 2 frames together"):
        check(settings(clips="scenes"), STCCacher(), pairs)

    class Merging(NoCacher):
        merged_tokens = 3

    with pytest.raises(ValueError, match="cacher.output=merged: backbone=dispider needs its own grid of tokens"):
        check(settings(), Merging(), NoPruner())


def test_hub_id_without_files_says_how_to_fetch(offline: None, settings: Make) -> None:
    check(settings(checkpoint=HUB_ID, tokens_per_frame=64), NoCacher(), STCPruner(budget=20))
    with pytest.raises(ValueError) as error:
        load(settings(checkpoint=HUB_ID, tokens_per_frame=64))
    message = str(error.value)
    assert f"backbone.checkpoint={HUB_ID}" in message and f"hf download {HUB_ID}" in message and "19 GB" in message


def test_dtype(new_dispider: Callable, frames: Frames) -> None:
    setup = new_dispider(dtype=torch.bfloat16)
    session = setup.open(NoCacher(), STCPruner(budget=2))
    session.push(frames[:4], [0.0, 1.0, 2.0, 3.0])
    assert setup.model.dtype == torch.bfloat16
    assert session.ask(Question("q", 4.0, "What?", ("a", "b"))).letter_logits.keys() == {"A", "B"}

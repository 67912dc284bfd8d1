"""Checkpoints: where they are found, what is refused, and that folders need no network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stc_lab.backbones.base import VideoModel
from stc_lab.backbones.llava_onevision import LlavaOnevision
from stc_lab.cachers.none import NoCacher
from stc_lab.memories.rekv import ReKV
from stc_lab.pruners.none import NoPruner
from stc_lab.pruners.stc import STCPruner

HUB_ID = "llava-hf/llava-onevision-qwen2-0.5b-ov-hf"


@pytest.fixture
def folder(checkpoint_folder: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return shutil.copytree(checkpoint_folder, tmp_path / "checkpoint")


def loaded_from(folder: Path | str, dtype: torch.dtype | None = None) -> VideoModel:
    return LlavaOnevision(checkpoint=str(folder), tokens_per_frame=9).load(dtype=dtype)


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_official_key_layout_is_loaded_bit_by_bit(checkpoint_folder: Path, backbone) -> None:
    saved = load_file(checkpoint_folder / "model.safetensors")
    assert {"language_model.lm_head.weight", "vision_tower.vision_model.post_layernorm.weight"} <= saved.keys()
    state = backbone.model.model.state_dict()
    assert torch.equal(state["lm_head.weight"], saved["language_model.lm_head.weight"])
    loaded = state["model.language_model.layers.1.mlp.up_proj.weight"]
    assert torch.equal(loaded, saved["language_model.model.layers.1.mlp.up_proj.weight"])
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


def test_new_key_layout_is_loaded_too(folder: Path, backbone) -> None:
    save_file(backbone.model.model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    loaded = loaded_from(folder).model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in backbone.model.model.state_dict().items())


def test_folder_needs_no_network(offline: None, new_backbone: Callable) -> None:
    backbone = new_backbone()
    assert backbone.model.facts.tokens_per_frame == 9 and backbone.model.grid == (3, 3)
    assert backbone.open(NoCacher(), NoPruner()).stats()["num_blocks"] == 0


def test_sizes_come_from_the_user_then_the_checkpoint_then_the_paper(folder: Path) -> None:
    def sizes(**changes) -> tuple[int, int]:
        made = ReKV(**changes).sizes(LlavaOnevision(checkpoint=str(folder), tokens_per_frame=9).facts())
        return made.n_local, made.topk

    assert sizes() == (15000, 64)
    (folder / "stc_lab.json").write_text(json.dumps({"rekv": {"n_local": 500, "topk": 16}}))
    assert sizes() == (500, 16)
    assert sizes(topk=3) == (500, 3)


def test_dtype_follows_the_trainer(folder: Path) -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = loaded_from(folder)
    finally:
        torch.set_default_dtype(torch.float32)
    assert model.dtype == torch.bfloat16
    assert loaded_from(folder, torch.float16).dtype == torch.float16


def test_half_precision_runs(new_backbone: Callable, video, question) -> None:
    session = new_backbone(dtype=torch.bfloat16, n_local=60).open(NoCacher(), STCPruner(budget=5))
    session.push(video, [float(t) for t in range(len(video))])
    assert session.ask(question).letter_logits.keys() == {"A", "B", "C"}


def settings(folder: Path | str, **changes) -> LlavaOnevision:
    return LlavaOnevision(**{"checkpoint": str(folder), "tokens_per_frame": 9, "name": "rekv", **changes})


def test_good_settings_pass(folder: Path) -> None:
    settings(folder).check(NoCacher(), STCPruner(budget=5), ReKV(n_local=30, topk=6))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 0}, "backbone.max_new_tokens=0: must be at least 1"),
        ({"answer_reader": "guess"}, "backbone.answer_reader=guess: must be one of generate, letter_logits"),
        ({"tokens_per_frame": 196}, "tokens_per_frame=196.*pools 5x5 patches to 3x3; set backbone.tokens_per_frame=9"),
        ({"checkpoint": "no/such/folder"}, "no such folder; give pocket, a folder, or a hub id"),
        ({"checkpoint": "nowhere"}, "no such folder; give pocket, a folder, or a hub id"),
    ],
)
def test_wrong_settings_are_named_before_anything_loads(
    offline: None, monkeypatch: pytest.MonkeyPatch, folder: Path, changes: dict, message: str
) -> None:
    monkeypatch.setattr("stc_lab.backbones.llava_onevision.load_checkpoint", None)
    with pytest.raises(ValueError, match=message):
        settings(folder, **changes).facts()
    with pytest.raises(ValueError, match=message):
        settings(folder, **changes).check(NoCacher(), STCPruner(budget=5), ReKV())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topk": 0}, "memory.topk=0: must be at least 1"),
        ({"n_local": -5}, "memory.n_local=-5: must be at least 1"),
        ({"max_cached_blocks": -1}, "memory.max_cached_blocks=-1: must be 0"),
        ({"retrieval_chunk_size": 70}, "retrieval_chunk_size=70: must be at most memory.topk=64"),
    ],
)
def test_wrong_sizes_of_the_memory_are_named(folder: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(folder).check(NoCacher(), STCPruner(budget=5), ReKV(**changes))


def test_retrieved_blocks_must_fit_the_window(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"topk=6: 6 blocks of 9 tokens are 54 tokens.*n_local=30"):
        settings(folder).check(NoCacher(), NoPruner(), ReKV(n_local=30, topk=6))


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_files_are_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(ValueError, match=f"{file} not found in"):
        settings(folder).facts()


def test_missing_shards_are_named(folder: Path) -> None:
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors").rename(folder / shards["a"])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(ValueError, match=": model-00002-of-00002.safetensors not found in"):
        settings(folder).facts()


def test_another_kind_of_model_is_refused(folder: Path) -> None:
    edit(folder / "config.json", model_type="llava")
    with pytest.raises(ValueError, match="model_type is llava, backbone=rekv needs llava_onevision"):
        settings(folder).facts()


@pytest.mark.parametrize("change", ["remove", "add"])
def test_weights_must_fit_exactly(folder: Path, change: str) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    if change == "remove":
        del weights["multi_modal_projector.linear_1.bias"]
    else:
        weights["multi_modal_projector.linear_3.bias"] = torch.zeros(3)
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"weights do not fit.*(missing|unexpected) keys: .*linear_[13].bias"):
        settings(folder).load()


def test_processor_without_constants_is_refused(folder: Path) -> None:
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        edit(folder / name, image_mean=None)
    with pytest.raises(ValueError, match="image_mean missing"):
        settings(folder).load()


@pytest.mark.parametrize("name", [HUB_ID, "someone/some-model"])
def test_hub_id_without_files_says_how_to_fetch(offline: None, name: str) -> None:
    settings(name).check(NoCacher(), STCPruner(budget=5), ReKV())
    with pytest.raises(ValueError) as error:
        settings(name).load()
    message = str(error.value)
    assert f"backbone.checkpoint={name}" in message and f"hf download {name}" in message
    assert ("about 1.8 GB" if name == HUB_ID else "size not known") in message


def test_hub_id_in_the_cache_is_used(offline: None, folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "empty" / f"models--{HUB_ID.replace('/', '--')}"
    (snapshot / "refs").mkdir(parents=True)
    (snapshot / "refs" / "main").write_text("abc")
    shutil.copytree(folder, snapshot / "snapshots" / "abc")
    assert loaded_from(HUB_ID).grid == (3, 3)
    tokenizer = snapshot / "snapshots" / "abc" / "tokenizer.json"
    with pytest.raises(ValueError, match="hf download"):
        tokenizer.rename(tokenizer.with_suffix(".partial"))
        loaded_from(HUB_ID)
    tokenizer.with_suffix(".partial").rename(tokenizer)
    with pytest.raises(ValueError, match="set backbone.tokens_per_frame=9"):
        LlavaOnevision(checkpoint=HUB_ID).facts()

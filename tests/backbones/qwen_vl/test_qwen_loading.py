"""Checkpoints of LiveCC and StreamingVLM: layouts, what is refused, and the pocket architectures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stc_lab.backbones.qwen_vl.model import LiveCC, QwenModel, StreamingVLM
from stc_lab.cachers import NoCacher, STCCacher
from stc_lab.memories import livecc, oneshot, streamingvlm
from stc_lab.pruners.stc import STCPruner
from stc_lab.session import StreamSession
from stc_lab.training.models import qwen_vl as pocket

BACKBONES = {"livecc": LiveCC, "streamingvlm": StreamingVLM}
MEMORIES = {"livecc": livecc.LiveCC, "streamingvlm": streamingvlm.StreamingVLM}
HUB = {"livecc": "chenjoya/LiveCC-7B-Instruct", "streamingvlm": "mit-han-lab/StreamingVLM"}


@pytest.fixture(params=BACKBONES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(name: str, tiny_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return shutil.copytree(tiny_folders[name], tmp_path / "checkpoint")


def loaded(name: str, folder: Path | str) -> QwenModel:
    return BACKBONES[name](checkpoint=str(folder)).load(dtype=torch.float32)


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_official_and_new_key_layout_are_loaded_bit_by_bit(name: str, folder: Path) -> None:
    saved = load_file(folder / "model.safetensors")
    roots = {key.split(".")[0] for key in saved}
    assert roots == {"visual", "model", "lm_head"} and not any(key.startswith("model.visual") for key in saved)
    model = loaded(name, folder)
    state = model.model.state_dict()
    assert torch.equal(state["model.visual.blocks.1.attn.qkv.weight"], saved["visual.blocks.1.attn.qkv.weight"])
    projection = state["model.language_model.layers.1.mlp.up_proj.weight"]
    assert torch.equal(projection, saved["model.layers.1.mlp.up_proj.weight"])
    assert not any(parameter.requires_grad for parameter in model.parameters())
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "model.safetensors", {"format": "pt"})
    again = loaded(name, folder).model.state_dict()
    assert all(torch.equal(again[key], value) for key, value in state.items())


@pytest.mark.parametrize("change", ["remove", "add"])
def test_weights_must_fit_exactly(name: str, folder: Path, change: str) -> None:
    weights = load_file(folder / "model.safetensors")
    if change == "remove":
        del weights["visual.merger.mlp.0.bias"]
    else:
        weights["visual.merger.mlp.3.bias"] = torch.zeros(3)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"weights do not fit.*(missing|unexpected) keys: .*merger.mlp.[03].bias"):
        loaded(name, folder)


def test_only_safetensors_are_read(name: str, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="model.safetensors not found in"):
        BACKBONES[name](checkpoint=str(folder)).facts()


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"model_type": "llava"}, "model_type is llava.*needs qwen2_vl or qwen2_5_vl"),
        ("config.json", {"vision_config": {"spatial_merge_size": 3}}, "spatial_merge_size=3 is not supported"),
    ],
)
def test_another_kind_of_model_is_refused(name: str, folder: Path, file: str, changes: dict, message: str) -> None:
    edit(folder / file, **changes)
    with pytest.raises(ValueError, match=message):
        BACKBONES[name](checkpoint=str(folder)).facts()


def test_another_tokenizer_or_processor_is_refused(name: str, folder: Path) -> None:
    edit(folder / "preprocessor_config.json", image_mean=None)
    with pytest.raises(ValueError, match="image_mean missing"):
        loaded(name, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [t for t in tokenizer["added_tokens"] if t["content"] != "<|video_pad|>"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match=r"its tokenizer has no <\|video_pad\|>"):
        loaded(name, folder)


def test_hub_id_without_files_says_how_to_fetch(name: str, offline: None) -> None:
    BACKBONES[name](checkpoint=HUB[name]).check(STCCacher(), STCPruner(budget=64), MEMORIES[name]())
    with pytest.raises(ValueError) as error:
        loaded(name, HUB[name])
    message = str(error.value)
    assert f"backbone.checkpoint={HUB[name]}" in message and f"hf download {HUB[name]}" in message
    assert "about 16.6 GB" in message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"answer_reader": "magic"}, "backbone.answer_reader=magic"),
        ({"fps": 0}, "backbone.fps=0"),
        ({"tokens_per_frame": 4, "min_tokens_per_frame": 8}, "min_tokens_per_frame=8: must be at most"),
        ({"repetition_penalty": 0}, "backbone.repetition_penalty=0"),
    ],
)
def test_settings_that_cannot_work_are_named(
    name: str, tiny_folders: dict[str, Path], settings: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        BACKBONES[name](checkpoint=str(tiny_folders[name]), **settings).facts()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"positions": "2d"}, "memory.positions=2d"),
        ({"commentary_tokens": 0}, "memory.commentary_tokens=0"),
        ({"temperature": -1}, "memory.temperature=-1"),
        ({"repetition_penalty": 0}, "memory.repetition_penalty=0"),
    ],
)
def test_settings_of_comments_that_cannot_work_are_named(name: str, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MEMORIES[name](**settings)


def test_settings_of_their_own_are_named() -> None:
    with pytest.raises(ValueError, match="memory.vision_window_s=0"):
        streamingvlm.StreamingVLM(vision_window_s=0)
    with pytest.raises(ValueError, match="memory.text_sink=-1"):
        streamingvlm.StreamingVLM(text_sink=-1)
    with pytest.raises(ValueError, match="memory.silence_threshold=2"):
        livecc.LiveCC(silence_threshold=2.0)
    with pytest.raises(ValueError, match="memory.max_frames=1: must be at least 2"):
        oneshot.OneShot(max_frames=1)


def test_a_trained_memory_is_the_only_one_its_preset_takes(name: str, tiny_folders: dict[str, Path]) -> None:
    model, other = BACKBONES[name](checkpoint=str(tiny_folders[name])), {"livecc": "streamingvlm"}.get(name, "livecc")
    model.check(NoCacher(), STCPruner(budget=4), oneshot.OneShot())
    with pytest.raises(ValueError, match=f"memory={other}: backbone={name} was trained with a memory of its own"):
        model.check(NoCacher(), STCPruner(budget=4), MEMORIES[other]())


def test_budgets_count_tokens_of_a_pair(name: str, tiny_folders: dict[str, Path]) -> None:
    folder, memory = str(tiny_folders[name]), MEMORIES[name]()
    settings = BACKBONES[name](checkpoint=folder)
    assert settings.facts().tokens_per_frame == 30
    settings.check(NoCacher(), STCPruner(budget=30), memory)
    with pytest.raises(ValueError, match="a frame has 30 tokens"):
        settings.check(NoCacher(), STCPruner(budget=31), memory)
    with pytest.raises(ValueError, match="a frame has 30 tokens"):
        StreamSession(loaded(name, folder), NoCacher(), STCPruner(budget=31), memory)
    BACKBONES[name](checkpoint=folder, tokens_per_frame=40).check(NoCacher(), STCPruner(budget=31), memory)


def test_frames_of_about_one_size_share_an_encoder(name: str, tiny_folders: dict[str, Path]) -> None:
    model = loaded(name, tiny_folders[name])
    assert model.encoder((17, 25)) is model.encoder((16, 24)) and model.encoder((17, 25)).grid == (2, 3)
    square = model.encoder((40, 40))
    assert square.grid == (5, 5) and square.tower.facts.num_tokens == 25 and square.project_flops > 0


def test_pocket_architectures(name: str, tmp_path: Path) -> None:
    """Official classes and key layout, 196 tokens, warm where the ReKV pocket fits, under 10 MB."""
    new = {"livecc": pocket.new_pocket_livecc, "streamingvlm": pocket.new_pocket_streamingvlm}[name]
    model, cold = new(), new(start=None)
    trained = load_file(pocket.REKV / "model.safetensors")
    text = model.model.language_model
    above = text.layers[pocket.PLACE_LAYERS + 3]
    assert torch.equal(above.mlp.up_proj.weight, trained["language_model.model.layers.3.mlp.up_proj.weight"])
    assert not any(layer.self_attn.o_proj.weight.any() for layer in text.layers[: pocket.PLACE_LAYERS])
    words = trained["language_model.model.embed_tokens.weight"]
    assert torch.equal(text.embed_tokens.weight[: len(words)], words) and len(text.embed_tokens.weight) > len(words)
    assert not torch.equal(cold.model.language_model.layers[5].mlp.up_proj.weight, above.mlp.up_proj.weight)
    folder = pocket.save_pocket(model, tmp_path / name, name)
    assert {key.split(".")[0] for key in load_file(folder / "model.safetensors")} == {"visual", "model"}
    assert sum(file.stat().st_size for file in folder.iterdir()) < 10e6
    again = loaded(name, folder)
    state = model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in again.model.state_dict().items())
    assert again.encoder((108, 108)).grid == (14, 14) and again.facts.tokens_per_frame == 196
    assert all(again.letter_id(letter) >= 0 for letter in "ABCDE")
    prompt = again.token_ids("<|im_start|>user\nTime=10.0-12.0s<|vision_start|>")
    assert again.loaded.tokenizer.unk_token_id not in prompt

"""StreamForest checkpoints: what is read, what is refused, and the pocket architecture."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stc_lab.api import open_session
from stc_lab.backbones.checkpoints import POCKET_ROOT
from stc_lab.backbones.streamforest import StreamForest
from stc_lab.backbones.streamforest.checkpoint import SO400M, save_streamforest, vision_settings
from stc_lab.backbones.streamforest.model import BEFORE_VIDEO, StreamForestVideoModel, after_video
from stc_lab.cachers.none import NoCacher
from stc_lab.memories.streamforest import StreamForestMemory, time_message
from stc_lab.pruners.none import NoPruner
from stc_lab.training.models.streamforest import POCKET_SIZES, new_pocket_streamforest, pocket_tokenizer
from stc_lab.types import Question

HUB_ID = "MCG-NJU/StreamForest-Qwen2-7B"
TOKENS = 8
EVENT_TOKENS = 4


@pytest.fixture
def folder(forest_folder: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return shutil.copytree(forest_folder, tmp_path / "checkpoint")


def loaded(folder: Path, dtype: torch.dtype = torch.float32) -> StreamForestVideoModel:
    return StreamForest(checkpoint=str(folder), tokens_per_frame=TOKENS).load(dtype=dtype)


def check(folder: str | Path, **changes) -> None:
    """As before a run: model and memory against each other; ``changes`` of the settings of either."""
    settings = {"checkpoint": str(folder), "tokens_per_frame": TOKENS, "event_tokens": EVENT_TOKENS, **changes}
    of_model = {field.name for field in fields(StreamForest)}
    model = StreamForest(**{key: value for key, value in settings.items() if key in of_model})
    memory = StreamForestMemory(**{key: value for key, value in settings.items() if key not in of_model})
    model.check(NoCacher(), NoPruner(), memory)


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite(folder: Path, change) -> None:
    weights: dict[str, Tensor] = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_saved_and_loaded_is_equal(folder: Path, tmp_path: Path, video, question) -> None:
    first = loaded(folder)
    save_streamforest(first.model, first.loaded.tokenizer, tmp_path / "again", {"quota": 8, "now_tokens": 12})
    keys = load_file(tmp_path / "again" / "model.safetensors").keys()
    assert "model.vision_tower.vision_tower.vision_model.encoder.layers.1.mlp.fc1.weight" in keys
    assert {"model.mm_projector.mlp.2.bias", "model.layers.0.self_attn.q_proj.bias", "lm_head.weight"} <= set(keys)
    again, answers = loaded(tmp_path / "again"), []
    memory = StreamForestMemory(quota=5120, now_tokens=16, event_tokens=EVENT_TOKENS)
    for model in (first, again):
        session = open_session(model, NoCacher(), NoPruner(), memory)
        session.push(video, [float(t) for t in range(len(video))])
        answers.append(session.ask(question).letter_logits)
    assert answers[0] == answers[1]
    suggested = StreamForestMemory(event_tokens=EVENT_TOKENS).sizes(again.facts)
    assert (suggested.quota, suggested.now_tokens, suggested.short_frames) == (8, 12, 18)


def test_shards_and_dtype(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = {}
    for number, part in enumerate((sorted(weights)[::2], sorted(weights)[1::2]), 1):
        name = f"model-0000{number}-of-00002.safetensors"
        save_file({key: weights[key] for key in part}, folder / name)
        index |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    model = loaded(folder, torch.float16)
    head = model.model.language.lm_head.weight
    assert model.dtype == torch.float16 and torch.equal(head, weights["lm_head.weight"].half())
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match="model-00002-of-00002.safetensors not found"):
        check(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("model.mm_projector.mlp.0.bias"), r"missing keys: model.mm_projector.mlp.0.bias$"),
        (lambda w: w.update(extra=torch.zeros(1)), r"unexpected keys: extra$"),
        (lambda w: w.update({"lm_head.weight": torch.zeros(3, 4)}), r"fit the model; mismatched keys: lm_head.weight$"),
        (lambda w: w.clear() or w.update(a=torch.zeros(1)), r"missing keys: .* and \d+ more; unexpected keys: a"),
    ],
)
def test_weights_that_do_not_fit(folder: Path, change, message: str) -> None:
    rewrite(folder, change)
    with pytest.raises(ValueError, match=message):
        loaded(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "llava_onevision"}, "model_type is llava_onevision, backbone=streamforest needs llava_qwen"),
        ({"mm_projector_type": "tome16_mlp"}, "mm_projector_type is tome16_mlp.*earlier training stages"),
        ({"rope_scaling": {"factor": 2}}, "rope_scaling={'factor': 2} is not supported"),
    ],
)
def test_other_models_are_refused_before_anything_loads(folder: Path, config: dict, message: str) -> None:
    edit(folder / "config.json", **config)
    with pytest.raises(ValueError, match=message):
        check(folder)


def test_official_tower_is_known_by_name(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["vision_config"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="known is only siglip-so400m-patch14-384"):
        check(folder)
    edit(folder / "config.json", mm_vision_tower="google/siglip-so400m-patch14-384")
    check(folder, tokens_per_frame=128, event_tokens=None)
    assert vision_settings({})["num_hidden_layers"] == SO400M["num_hidden_layers"] == 26


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"now_tokens": 17}, "memory.now_tokens=17: the tower .* makes 16 tokens of a frame"),
        ({"tokens_per_frame": 128}, "a frame only shrinks, from memory.now_tokens=16"),
        ({"time_message": "long"}, "memory.time_message=long: must be one of short_online_v2, short_online, none"),
        ({"max_new_tokens": 0}, "backbone.max_new_tokens=0: must be at least 1"),
        ({"answer_reader": "guess"}, "backbone.answer_reader=guess: must be one of"),
        ({"folder": "no/such/folder"}, "no such folder"),
    ],
)
def test_wrong_settings_are_named(forest_folder: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(**{"folder": forest_folder, **changes})


def test_hub_id_without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    check(HUB_ID, tokens_per_frame=128, event_tokens=None)
    with pytest.raises(ValueError, match=rf"{HUB_ID}.*about 16.1 GB.*hf download {HUB_ID}"):
        StreamForest(checkpoint=HUB_ID).load()


def test_pocket_architecture(tmp_path: Path) -> None:
    model, tokenizer = new_pocket_streamforest(), pocket_tokenizer()
    shipped = load_file(POCKET_ROOT / "rekv" / "model.safetensors")
    state = model.state_dict()
    names = model.official_names()
    assert torch.equal(state["projector.2.weight"], shipped["multi_modal_projector.linear_2.weight"])
    layer = "layers.2.mlp.up_proj.weight"
    assert torch.equal(state[names[f"model.{layer}"]], shipped[f"language_model.model.{layer}"])
    key = "encoder.layers.1.self_attn.k_proj.weight"
    official = names[f"model.vision_tower.vision_tower.vision_model.{key}"]
    assert torch.equal(state[official], shipped[f"vision_tower.{key}"])
    words = shipped["language_model.model.embed_tokens.weight"]
    assert torch.equal(state["language.model.embed_tokens.weight"][: len(words)], words)

    save_streamforest(model, tokenizer, tmp_path, POCKET_SIZES)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 10e6
    loaded_again = StreamForest(checkpoint=str(tmp_path)).load(dtype=torch.float32)
    sizes = StreamForestMemory().sizes(loaded_again.facts)
    assert loaded_again.tower.facts.num_tokens == 729 and sizes.now_tokens == 729
    assert sizes.quota == POCKET_SIZES["quota"]
    again = loaded_again.model.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


def test_pocket_knows_the_words_of_its_prompts() -> None:
    question = Question("q", 1.0, "what color is the ring now ?", ("red", "blue"), "A")
    message = time_message("short_online_v2", 12, 0.0, 27.0)
    ids = pocket_tokenizer()(BEFORE_VIDEO + after_video(question, message)).input_ids
    tokens = pocket_tokenizer().convert_ids_to_tokens(ids)
    assert "<unk>" not in tokens and len(tokens) < 60


def test_pocket_is_shipped_and_one_that_is_not_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    StreamForest().facts()
    monkeypatch.setattr("stc_lab.backbones.checkpoints.POCKET_ROOT", tmp_path)
    with pytest.raises(ValueError, match=r"backbone\.checkpoint=pocket: no pocket model of"):
        StreamForest().facts()

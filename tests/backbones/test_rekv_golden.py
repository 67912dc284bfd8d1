"""The whole chain against numbers of the released ReKV code (golden case ``rekv_llava_e2e``)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stc_lab.backbones.llava_onevision import LlavaModel, LlavaOnevision
from stc_lab.cachers.none import NoCacher
from stc_lab.language.caches.rekv import ReKVStore
from stc_lab.language.caches.retrieval import ReKVSettings

TOLERANCE = {"atol": 2e-5, "rtol": 0.0}


@pytest.fixture
def facts(shared_dir: Path) -> dict:
    return json.loads((shared_dir / "golden" / "backbones" / "rekv_llava_e2e.json").read_text())


@pytest.fixture
def tensors(shared_dir: Path) -> dict[str, Tensor]:
    return load_file(shared_dir / "golden" / "backbones" / "rekv_llava_e2e.safetensors")


@pytest.fixture
def golden_backbone(shared_dir: Path, facts: dict, checkpoint_folder: Path, tmp_path: Path) -> LlavaModel:
    """The replica as a checkpoint folder: its weights are in the official key layout."""
    weights = shared_dir / "golden" / "backbones" / "rekv_llava_weights_official.safetensors"
    shutil.copytree(checkpoint_folder, tmp_path, dirs_exist_ok=True)
    shutil.copy(weights, tmp_path / "model.safetensors")
    text, vision = dict(facts["text_config"]), dict(facts["vision_config"])
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": text.pop("rope_theta")}
    size = {"height": vision["image_size"], "width": vision["image_size"]}
    config = {
        **json.loads((tmp_path / "config.json").read_text()),
        "text_config": {**text, "model_type": "qwen2"},
        "vision_config": {**vision, "model_type": "siglip_vision_model"},
        "image_token_index": facts["image_token_index"],
        "video_token_index": facts["video_token_index"],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    processor = tmp_path / "video_preprocessor_config.json"
    processor.write_text(json.dumps({**json.loads(processor.read_text()), "size": size}))
    settings = LlavaOnevision(checkpoint=str(tmp_path), tokens_per_frame=facts["tokens_per_frame"])
    return settings.load(dtype=torch.float32)


@torch.no_grad()
def test_frames_to_answers(golden_backbone: LlavaModel, facts: dict, tensors: dict[str, Tensor]) -> None:
    backbone, decoder = golden_backbone, golden_backbone.decoder
    sizes = facts["rekv_config"]
    settings = ReKVSettings(
        sizes["n_local"], sizes["topk"], max_cached_blocks=sizes["max_cached_block"], upstream_quirks=True
    )
    memory = ReKVStore(decoder.shape, settings, backbone.device)
    decoder(decoder.embed(facts["init_ids"]), memory)
    frames = list(tensors["frames_u8_thwc"].numpy())
    cacher, encoded = NoCacher(), []
    for start in range(0, len(frames), facts["encode_chunk_size"]):
        pixels = backbone.preprocess(frames[start : start + facts["encode_chunk_size"]])
        tokens = backbone.project(cacher.encode(backbone.tower, pixels, None).features)
        encoded.append(tokens.flatten(0, 1))
        decoder(encoded[-1], memory, lengths=[facts["tokens_per_frame"]] * len(tokens))
    torch.testing.assert_close(torch.cat(encoded), tensors["video_features"], **TOLERANCE)
    for name in ("q0", "q1"):
        check_question(backbone, memory, facts[name], tensors, name)


def check_question(
    backbone: LlavaModel, memory: ReKVStore, facts: dict, tensors: dict[str, Tensor], name: str
) -> None:
    decoder, given = backbone.decoder, facts["external_indices"]
    store = memory.retrieve(given[0] if given else None)
    hidden = decoder(decoder.embed(facts["question_ids"]), store)
    torch.testing.assert_close(decoder.logits(hidden[-1]), tensors[f"{name}.question_logits_last"], **TOLERANCE)
    assert store.block_indices == facts["retrieved_block_indices"]
    store.drop_question()
    first = decoder.logits(decoder(decoder.embed(facts["prompt_ids"]), store)[-1])
    torch.testing.assert_close(first, tensors[f"{name}.prefill_logits_last"], **TOLERANCE)
    ids, decoded = [int(first.argmax())], []
    while len(ids) < len(facts["output_ids"]):
        decoded.append(decoder.logits(decoder(decoder.embed(ids[-1:]), store)[-1]))
        ids.append(int(decoded[-1].argmax()))
    assert ids == facts["output_ids"]
    torch.testing.assert_close(torch.stack(decoded), tensors[f"{name}.decode_logits"], **TOLERANCE)

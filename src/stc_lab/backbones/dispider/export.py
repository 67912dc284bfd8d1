"""Writes a Dispider checkpoint folder in the official key layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase

from stc_lab.backbones.checkpoints import LAB_FILE
from stc_lab.backbones.dispider.model import DispiderModel
from stc_lab.backbones.dispider.sizes import COMPRESSOR_FOLDERS, DispiderSizes
from stc_lab.backbones.dispider.weights import official_name


def save_dispider(
    folder: Path,
    model: DispiderModel,
    sizes: DispiderSizes,
    tokenizer: PreTrainedTokenizerBase,
    compressor_tokenizer: PreTrainedTokenizerBase | None = None,
    lab_settings: Mapping[str, Any] | None = None,
) -> Path:
    """Weights (one file, all networks), settings and tokenizers; ``lab_settings``: sizes that suit the checkpoint.

    Without ``compressor_tokenizer`` both networks share one.
    """
    inner = folder / COMPRESSOR_FOLDERS[0]
    (inner / "vision_tower").mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if model.language.config.tie_word_embeddings:
        del state["language.lm_head.weight"]
    weights = {official_name(name): tensor for name, tensor in state.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)
    (compressor_tokenizer or tokenizer).save_pretrained(inner)
    _write(folder / "config.json", {**sizes.language, "model_type": "long"})
    _write(inner / "config.json", _compressor_settings(sizes))
    _write(inner / "vision_tower" / "config.json", {**sizes.vision, "model_type": "clip_vision_model"})
    _write(inner / "vision_tower" / "preprocessor_config.json", sizes.pixels)
    if lab_settings:
        _write(folder / LAB_FILE, {"dispider": lab_settings})
    return folder


def _compressor_settings(sizes: DispiderSizes) -> dict[str, Any]:
    return {
        **sizes.compressor,
        "model_type": "stream_ground_qwen",
        "perception_vision_tower": "vision_tower",
        "perception_select_layer": sizes.select_layer,
        "perception_select_feature": "patch",
        "mm_projector_type": "pool",
        "resolution": sizes.tokens_per_frame,
        "pool_num": sizes.pool_num,
    }


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(content), indent=2) + "\n", encoding="utf-8")

"""Loads and saves StreamForest checkpoint folders in the official key layout."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoTokenizer, PreTrainedConfig, Qwen2Config, SiglipVisionConfig

from stc_lab.backbones.checkpoints import LAB_FILE, Checkpoint
from stc_lab.backbones.hf_loading import LoadedText, require_fit, stop_ids_of
from stc_lab.backbones.preprocessing import FramePreprocessor
from stc_lab.backbones.streamforest.config import MODEL_TYPE, PROJECTOR, TEXT_KEYS, text_settings, vision_settings
from stc_lab.backbones.streamforest.model import StreamForestModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class LoadedStreamForest(LoadedText):
    """A loaded checkpoint. ``stop_ids``: tokens that end an answer."""

    model: StreamForestModel
    tokenizer: PreTrainedTokenizerBase
    preprocessor: FramePreprocessor
    stop_ids: frozenset[int]


def load_streamforest(checkpoint: Checkpoint, dtype: torch.dtype) -> LoadedStreamForest:
    """Weights on the CPU in ``dtype`` and the tokenizer of a checkpoint folder; no network.

    Pixels are prepared with SigLIP's constants, as the released code does: bicubic, mean and deviation 0.5. Raises
    ``ValueError`` when weights are missing, left over, or of another shape.
    """
    config = checkpoint.json("config.json")
    # Made without memory for weights, so that loading 7B parameters needs them once and no random numbers.
    with torch.device("meta"):
        model = StreamForestModel(
            Qwen2Config(**text_settings(config)), SiglipVisionConfig(**vision_settings(config))
        )
    _load_weights(model, sorted(checkpoint.folder.glob("*.safetensors")), dtype, checkpoint.name)
    model.restore_buffers()
    model.eval().requires_grad_(False)
    # No type of model: with Qwen2's, transformers would cut words as Qwen2 does, whatever tokenizer.json says.
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, config=PreTrainedConfig(), local_files_only=True)
    side = model.vision.config.image_size
    preprocessor = FramePreprocessor(size=(side, side), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return LoadedStreamForest(model, tokenizer, preprocessor, _stop_ids(checkpoint, config, tokenizer))


def save_streamforest(
    model: StreamForestModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    lab_settings: dict[str, Any] | None = None,
) -> None:
    """Write a folder as the hub has it, with the tower's sizes added to ``config.json``.

    ``lab_settings``: sizes of the memory that suit the model, for ``backbone.<size>=null``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    official = {theirs: state[ours].contiguous() for theirs, ours in model.official_names().items()}
    save_file(official, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)
    _write(folder / "config.json", _config_of(model))
    if lab_settings:
        _write(folder / LAB_FILE, {"streamforest": lab_settings})


def _load_weights(model: StreamForestModel, files: Iterable[Path], dtype: torch.dtype, name: str) -> None:
    names, shapes = model.official_names(), {key: tensor.shape for key, tensor in model.state_dict().items()}
    state, unexpected, mismatched = {}, [], []
    for path in files:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():
                if key not in names:
                    unexpected += [] if model.ties_head and key == "lm_head.weight" else [key]
                elif tuple(file.get_slice(key).get_shape()) != tuple(shapes[names[key]]):
                    mismatched.append(key)
                else:
                    state[names[key]] = file.get_tensor(key).to(dtype)
    missing = [theirs for theirs, ours in names.items() if ours not in state and theirs not in mismatched]
    require_fit(name, missing=missing, unexpected=unexpected, mismatched=mismatched)
    model.load_state_dict(state, assign=True, strict=not model.ties_head)


def _stop_ids(checkpoint: Checkpoint, config: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """End tokens named by the generation config, the config and the tokenizer, and the end of a chat turn."""
    generation = checkpoint.json("generation_config.json") or {}
    end_of_turn = tokenizer("<|im_end|>", add_special_tokens=False).input_ids
    return stop_ids_of(generation.get("eos_token_id"), config.get("eos_token_id"), tokenizer.eos_token_id, end_of_turn)


def _config_of(model: StreamForestModel) -> dict[str, Any]:
    text, vision = model.language.config.to_dict(), model.vision.config
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
    return {
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": MODEL_TYPE,
        **{key: text[key] for key in TEXT_KEYS if key in text},
        "rope_theta": model.language.config.rope_parameters["rope_theta"],
        "mm_vision_tower": "siglip",
        "mm_projector_type": PROJECTOR,
        "vision_encode_type": "image_video_memory_batch",
        "mm_hidden_size": vision.hidden_size,
        "mm_local_num_frames": 1,
        "mm_pos_num_frames": 1,
        "mm_patch_merge_type": "flat",
        "mm_newline_position": "nothing",
        "mm_use_im_start_end": False,
        "vision_config": {key: getattr(vision, key) for key in sizes},
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

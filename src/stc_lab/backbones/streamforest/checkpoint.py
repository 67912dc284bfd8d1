"""StreamForest checkpoints: what ``config.json`` says, the modules, their official names, loading and saving."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AutoTokenizer,
    PreTrainedConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from stc_lab.backbones.checkpoints import LAB_FILE, Checkpoint, require_fit, stop_ids_of
from stc_lab.language.chat import LoadedText
from stc_lab.vision.tower import FramePreprocessor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MODEL_TYPE = "llava_qwen"
PROJECTOR = "tome729_fstw_pemf"
SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
"""SigLIP so400m/14 at 384 pixels without its last layer: the official file names it, without its sizes."""
TEXT_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
OFFICIAL_VISION = "model.vision_tower.vision_tower.vision_model."
OFFICIAL_PROJECTOR = "model.mm_projector.mlp."


def check_config(config: dict[str, Any], name: str) -> None:
    """Raise ``ValueError`` when the ``config.json`` of checkpoint ``name`` is not that of a StreamForest model."""
    kind, projector = config.get("model_type"), config.get("mm_projector_type")
    if kind != MODEL_TYPE:
        raise ValueError(f"backbone.checkpoint={name}: model_type is {kind}, backbone=streamforest needs {MODEL_TYPE}")
    if projector != PROJECTOR:
        raise ValueError(
            f"backbone.checkpoint={name}: mm_projector_type is {projector}, backbone=streamforest needs {PROJECTOR} "
            "(checkpoints of the earlier training stages have no memory)"
        )
    if "vision_config" not in config and "siglip-so400m-patch14-384" not in str(config.get("mm_vision_tower")):
        raise ValueError(
            f"backbone.checkpoint={name}: mm_vision_tower is {config.get('mm_vision_tower')}, known is only "
            "siglip-so400m-patch14-384; for another tower config.json needs its sizes as vision_config"
        )
    if config.get("rope_scaling"):
        raise ValueError(f"backbone.checkpoint={name}: rope_scaling={config['rope_scaling']} is not supported")


def text_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``Qwen2Config``; both ways to write the base of the rotary embedding are read."""
    rope = config.get("rope_parameters") or {"rope_type": "default", "rope_theta": config.get("rope_theta", 1e6)}
    return {key: config[key] for key in TEXT_KEYS if key in config} | {"rope_parameters": rope}


def vision_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``SiglipVisionConfig``, layers as in the file (one fewer than SigLIP itself has)."""
    given = {key: value for key, value in config.get("vision_config", {}).items() if key != "model_type"}
    return SO400M | given | {"vision_use_head": False}


def tower_tokens(config: dict[str, Any]) -> int:
    """Tokens that the tower makes of a frame."""
    vision = vision_settings(config)
    return (vision["image_size"] // vision["patch_size"]) ** 2


class StreamForestModel(nn.Module):
    """Tower, projector and language model; the memory between them has no weights."""

    def __init__(self, text: Qwen2Config, vision: SiglipVisionConfig) -> None:
        super().__init__()
        self.vision = SiglipVisionModel(vision)
        self.projector = nn.Sequential(
            nn.Linear(vision.hidden_size, text.hidden_size),
            nn.GELU(),
            nn.Linear(text.hidden_size, text.hidden_size),
        )
        self.language = Qwen2ForCausalLM(text)

    @property
    def ties_head(self) -> bool:
        """Whether the language model's head is its embedding."""
        return bool(self.language.config.tie_word_embeddings)

    def official_names(self) -> dict[str, str]:
        """Official name of every tensor -> its name here; a tied head is left out."""
        names = {_official(name): name for name in self.state_dict()}
        if self.ties_head:
            names.pop("lm_head.weight", None)
        return names

    def restore_buffers(self) -> None:
        """Fill what no checkpoint holds, after the model was made without memory. All weights must be there."""
        rotary = self.language.model.rotary_emb
        self.language.model.rotary_emb = type(rotary)(rotary.config)
        embeddings = getattr(self.vision, "vision_model", self.vision).embeddings
        embeddings.position_ids = torch.arange(embeddings.position_ids.shape[-1])[None]
        self.language.tie_weights()
        unfilled = [name for name, tensor in [*self.named_parameters(), *self.named_buffers()] if tensor.is_meta]
        assert not unfilled, f"left without values: {unfilled}"


def _official(name: str) -> str:
    """Name here -> official name. Whether SigLIP nests its parts depends on the version of transformers."""
    part, _, rest = name.partition(".")
    if part == "vision":
        return OFFICIAL_VISION + rest.removeprefix("vision_model.")
    return rest if part == "language" else OFFICIAL_PROJECTOR + rest


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
        model = StreamForestModel(Qwen2Config(**text_settings(config)), SiglipVisionConfig(**vision_settings(config)))
    _load_weights(model, sorted(checkpoint.folder.glob("*.safetensors")), dtype, checkpoint.name)
    model.restore_buffers()
    model.eval().requires_grad_(False)
    # No type of model: with Qwen2's, transformers would cut words as Qwen2 does, whatever tokenizer.json says.
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, config=PreTrainedConfig(), local_files_only=True)
    side = model.vision.config.image_size
    preprocessor = FramePreprocessor(size=(side, side), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    # An answer ends where the generation config, the config or the tokenizer says, and at the end of a chat turn.
    generation = checkpoint.json("generation_config.json") or {}
    end_of_turn = tokenizer("<|im_end|>", add_special_tokens=False).input_ids
    ends = (generation.get("eos_token_id"), config.get("eos_token_id"), tokenizer.eos_token_id, end_of_turn)
    return LoadedStreamForest(model, tokenizer, preprocessor, stop_ids_of(*ends))


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


def save_streamforest(
    model: StreamForestModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    lab_settings: dict[str, Any] | None = None,
) -> None:
    """Write a folder as the hub has it, with the tower's sizes added to ``config.json``.

    ``lab_settings``: sizes of the memory that suit the model, for ``memory.<size>=null``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    official = {theirs: state[ours].contiguous() for theirs, ours in model.official_names().items()}
    save_file(official, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)
    _write(folder / "config.json", _config_of(model))
    if lab_settings:
        _write(folder / LAB_FILE, {"streamforest": lab_settings})


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

"""Loads a Qwen2-VL or Qwen2.5-VL checkpoint as Hugging Face saves it, in the new key layout or the official one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from stc_lab.backbones.checkpoints import Checkpoint
from stc_lab.backbones.hf_loading import LoadedText, no_progress_bar, require_all_weights, stop_ids_of
from stc_lab.backbones.qwen_vl.preprocessing import PairPreprocessor
from stc_lab.backbones.qwen_vl.prompts import ELLIPSIS, IM_END, IM_START, VIDEO_PAD, VISION_END, VISION_START
from stc_lab.vision.qwen_plane import MERGE

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROCESSOR_FILES = ("video_preprocessor_config.json", "preprocessor_config.json")
MODEL_TYPES = ("qwen2_vl", "qwen2_5_vl")


@dataclass(frozen=True)
class LoadedQwen(LoadedText):
    """A loaded checkpoint. ``stop_ids``: tokens that end an answer; ``silence_id``: the token of `` ...``."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    preprocessor: PairPreprocessor
    stop_ids: frozenset[int]
    im_end_id: int
    video_id: int
    silence_id: int


def check_model(checkpoint: Checkpoint, backbone: str) -> None:
    """Raise ``ValueError`` when ``config.json`` is of another kind of model, or merges other groups than 2x2."""
    config = checkpoint.json("config.json")
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise ValueError(
            f"backbone.checkpoint={checkpoint.name}: model_type is {kind}, backbone={backbone} needs "
            f"{' or '.join(MODEL_TYPES)}"
        )
    merge = config.get("vision_config", {}).get("spatial_merge_size", MERGE)
    if merge != MERGE:
        raise ValueError(f"backbone.checkpoint={checkpoint.name}: spatial_merge_size={merge} is not supported, only 2")


def load_qwen_vl(checkpoint: Checkpoint, dtype: torch.dtype) -> LoadedQwen:
    """Weights on the CPU in ``dtype``, tokenizer and processor constants of a checkpoint folder; no network.

    Raises ``ValueError`` when weights are missing or left over, when the processor is of another kind, or when the
    tokenizer has no chat and vision markers.
    """
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration, Qwen2VLForConditionalGeneration

    classes = dict(zip(MODEL_TYPES, (Qwen2VLForConditionalGeneration, Qwen2_5_VLForConditionalGeneration), strict=True))
    # A trainer may have set another default device; the model is moved as a whole afterwards.
    with torch.device("cpu"), no_progress_bar():
        model, info = classes[checkpoint.json("config.json")["model_type"]].from_pretrained(
            checkpoint.folder,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    require_all_weights(checkpoint.name, info)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
    model.eval().requires_grad_(False)
    markers = _marker_ids(checkpoint, tokenizer)
    ends = stop_ids_of(
        model.generation_config.eos_token_id,
        model.config.text_config.eos_token_id,
        tokenizer.eos_token_id,
        markers[IM_END],
    )
    return LoadedQwen(
        model=model,
        tokenizer=tokenizer,
        preprocessor=_preprocessor(checkpoint, model.config.vision_config),
        stop_ids=ends,
        im_end_id=markers[IM_END],
        video_id=markers[VIDEO_PAD],
        silence_id=tokenizer(ELLIPSIS, add_special_tokens=False).input_ids[-1],
    )


def _marker_ids(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    vocabulary = tokenizer.get_vocab()
    markers = (IM_START, IM_END, VISION_START, VISION_END, VIDEO_PAD)
    missing = [marker for marker in markers if marker not in vocabulary]
    if missing:
        raise ValueError(f"backbone.checkpoint={checkpoint.name}: its tokenizer has no {', '.join(missing)}")
    return {marker: vocabulary[marker] for marker in markers}


def _preprocessor(checkpoint: Checkpoint, vision: Any) -> PairPreprocessor:
    config = checkpoint.json(*PROCESSOR_FILES)
    if config is None:
        raise ValueError(
            f"backbone.checkpoint={checkpoint.name}: none of {', '.join(PROCESSOR_FILES)} found in {checkpoint.folder}"
        )
    source = f"processor of {checkpoint.name}"
    return PairPreprocessor.from_config(config, vision.patch_size, vision.temporal_patch_size, source)

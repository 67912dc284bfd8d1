"""Loads a LLaVA-OneVision checkpoint as Hugging Face saves it, in the new key layout or the old official one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from stc_lab.backbones.checkpoints import Checkpoint
from stc_lab.backbones.hf_loading import LoadedText, no_progress_bar, require_all_weights, stop_ids_of
from stc_lab.backbones.preprocessing import FramePreprocessor

if TYPE_CHECKING:
    from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerBase

PROCESSOR_FILES = ("video_preprocessor_config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class LlavaOnevision(LoadedText):
    """A loaded checkpoint. ``stop_ids``: tokens that end an answer."""

    model: LlavaOnevisionForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase
    preprocessor: FramePreprocessor
    stop_ids: frozenset[int]


def load_llava_onevision(checkpoint: Checkpoint, dtype: torch.dtype) -> LlavaOnevision:
    """Weights on the CPU in ``dtype``, tokenizer and processor constants of a checkpoint folder; no network.

    Raises ``ValueError`` when weights are missing or left over, or when the processor is of another kind.
    """
    from transformers import AutoTokenizer, LlavaOnevisionForConditionalGeneration

    preprocessor = read_preprocessor(checkpoint)
    # A trainer may have set another default device; the model is moved as a whole afterwards.
    with torch.device("cpu"), no_progress_bar():
        model, info = LlavaOnevisionForConditionalGeneration.from_pretrained(
            checkpoint.folder,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    require_all_weights(checkpoint.name, info)
    if model.config.vision_feature_select_strategy != "full":
        strategy = model.config.vision_feature_select_strategy
        raise ValueError(f"{checkpoint.folder}: vision_feature_select_strategy={strategy} is not supported, only full")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
    model.eval().requires_grad_(False)
    ends = stop_ids_of(
        model.generation_config.eos_token_id, model.config.text_config.eos_token_id, tokenizer.eos_token_id
    )
    return LlavaOnevision(model, tokenizer, preprocessor, ends)


def read_preprocessor(checkpoint: Checkpoint) -> FramePreprocessor:
    """Constants of the video processor, or of the image processor where there is no other."""
    config = checkpoint.json(*PROCESSOR_FILES)
    if config is None:
        raise ValueError(
            f"backbone.checkpoint={checkpoint.name}: none of {', '.join(PROCESSOR_FILES)} found in {checkpoint.folder}"
        )
    return FramePreprocessor.from_config(config, source=f"processor of {checkpoint.name}")

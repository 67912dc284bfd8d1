"""Loads a LLaVA-OneVision checkpoint as Hugging Face saves it, in the new key layout or the old official one."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from stc_lab.backbones.checkpoints import Checkpoint
from stc_lab.backbones.preprocessing import FramePreprocessor

if TYPE_CHECKING:
    from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerBase

PROCESSOR_FILES = ("video_preprocessor_config.json", "preprocessor_config.json")
REQUIRED_FILES = ("config.json", "tokenizer.json")


@dataclass(frozen=True)
class LlavaOnevision:
    """A loaded checkpoint. ``stop_ids``: tokens that end an answer."""

    model: LlavaOnevisionForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase
    preprocessor: FramePreprocessor
    stop_ids: frozenset[int]

    def token_ids(self, text: str) -> list[int]:
        """Ids of ``text`` as it stands, chat markers included."""
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def text(self, token_ids: Collection[int]) -> str:
        """Text of generated ids without special tokens."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True)


def load_llava_onevision(checkpoint: Checkpoint, dtype: torch.dtype) -> LlavaOnevision:
    """Weights on the CPU in ``dtype``, tokenizer and processor constants of a checkpoint folder; no network.

    Raises ``ValueError`` when weights are missing or left over, or when the processor is of another kind.
    """
    from transformers import AutoTokenizer, LlavaOnevisionForConditionalGeneration

    preprocessor = read_preprocessor(checkpoint)
    # A trainer may have set another default device; the model is moved as a whole afterwards.
    with torch.device("cpu"), _no_progress_bar():
        model, info = LlavaOnevisionForConditionalGeneration.from_pretrained(
            checkpoint.folder,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    _require_all_weights(checkpoint, info)
    if model.config.vision_feature_select_strategy != "full":
        strategy = model.config.vision_feature_select_strategy
        raise ValueError(f"{checkpoint.folder}: vision_feature_select_strategy={strategy} is not supported, only full")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
    model.eval().requires_grad_(False)
    return LlavaOnevision(model, tokenizer, preprocessor, _stop_ids(model, tokenizer))


def read_preprocessor(checkpoint: Checkpoint) -> FramePreprocessor:
    """Constants of the video processor, or of the image processor where there is no other."""
    config = checkpoint.json(*PROCESSOR_FILES)
    if config is None:
        raise ValueError(
            f"backbone.checkpoint={checkpoint.name}: none of {', '.join(PROCESSOR_FILES)} found in {checkpoint.folder}"
        )
    return FramePreprocessor.from_config(config, source=f"processor of {checkpoint.name}")


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Bars of transformers would break into those of the run."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def _require_all_weights(checkpoint: Checkpoint, info: dict) -> None:
    problems = []
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(map(str, info.get(kind) or ()))
        if keys:
            more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
            problems.append(f"{kind.replace('_', ' ')}: {', '.join(keys[:5])}{more}")
    if problems:
        raise ValueError(f"backbone.checkpoint={checkpoint.name}: weights do not fit the model; {'; '.join(problems)}")


def _stop_ids(model: LlavaOnevisionForConditionalGeneration, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """End tokens named by the generation config, the text config and the tokenizer."""
    named: set[int] = set()
    sources = (model.generation_config.eos_token_id, model.config.text_config.eos_token_id, tokenizer.eos_token_id)
    for ids in sources:
        named |= set(ids) if isinstance(ids, (list, tuple)) else {ids}
    return frozenset(i for i in named if i is not None)

"""``backbone=llava_onevision``: SigLIP, a projector with bilinear pooling, Qwen2 (arXiv:2408.03326)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from stc_lab.backbones.base import Backbone, VideoModel
from stc_lab.backbones.checkpoints import (
    Checkpoint,
    pretrained,
    processor_config,
    stop_ids_of,
)
from stc_lab.language.chat import LoadedText
from stc_lab.language.decoder import TextDecoder
from stc_lab.language.sequence import Clip, Embedded, Segment, Text
from stc_lab.measure.flops import projector_flops
from stc_lab.memories.base import ModelFacts
from stc_lab.types import Question, VisualTokens
from stc_lab.vision import SiglipTower
from stc_lab.vision.tower import FramePreprocessor

if TYPE_CHECKING:
    from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerBase

MODEL_TYPE = "llava_onevision"

# The prompt of ReKV's released code on these checkpoints, spaces included.
INIT = "<|im_start|>system \nYou are a helpful assistant.<|im_end|><|im_start|>user "
ANSWER_START = "<|im_end|><|im_start|>assistant\n"
CHOICE_START = "Best option: ("


@dataclass(frozen=True, kw_only=True)
class LlavaOnevision(Backbone):
    """Settings of a LLaVA-OneVision checkpoint in Hugging Face's layout, the new one or the first official one.

    ``tokens_per_frame``: visual tokens of a frame, which follow from the checkpoint; ``image_newline``: end the video
    with the model's learned newline, as its offline use does and ReKV does not.
    """

    name: str = "llava_onevision"
    tokens_per_frame: int = 196
    image_newline: bool = False
    answer_reader: Literal["generate", "letter_logits"] = "generate"

    pocket: ClassVar[str] = "rekv"
    at_least_one: ClassVar[tuple[str, ...]] = ("tokens_per_frame",)
    offers: ClassVar[frozenset[str]] = frozenset(
        {"kv", "features", "places", "equal_counts", "merged_tokens", "merges_in_tower", "bare_prompts"}
    )

    def facts(self) -> ModelFacts:
        files = self.local_files()
        if files is None:
            return ModelFacts(self.checkpoint, self.tokens_per_frame, self.offers)
        config = files.json("config.json")
        self._check_config(config)
        return ModelFacts(
            self.checkpoint,
            self.tokens_per_frame,
            self.offers,
            max_positions=config.get("text_config", {}).get("max_position_embeddings"),
            suggested=files.suggested,
        )

    def load(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> LlavaModel:
        files = self.all_files()
        model = LlavaModel(self, self.facts(), load_checkpoint(files, dtype or torch.get_default_dtype()))
        return model if device is None else model.to(device)

    def _check_config(self, config: dict) -> None:
        """Raise ``ValueError`` for another kind of model, or another number of tokens."""
        if config.get("model_type") != MODEL_TYPE:
            raise ValueError(
                f"backbone.checkpoint={self.checkpoint}: model_type is {config.get('model_type')}, "
                f"backbone={self.name} needs {MODEL_TYPE}"
            )
        vision = config.get("vision_config", {})
        side = vision.get("image_size", 384) // vision.get("patch_size", 14)
        pooled = math.ceil(side / 2)
        if self.tokens_per_frame != pooled**2:
            raise ValueError(
                f"backbone.tokens_per_frame={self.tokens_per_frame}: backbone.checkpoint={self.checkpoint} pools "
                f"{side}x{side} patches to {pooled}x{pooled}; set backbone.tokens_per_frame={pooled**2}"
            )


class LlavaModel(VideoModel):
    """``model`` is the Hugging Face model. Frames of any size are resized to one: the model is its own encoder."""

    def __init__(self, settings: LlavaOnevision, facts: ModelFacts, loaded: LoadedLlava) -> None:
        super().__init__(settings, facts)
        self.loaded = loaded
        self.model = loaded.model
        inner = self.model.model
        self.tower = SiglipTower(inner.vision_tower, self.model.config.vision_feature_layer)
        self.decoder = TextDecoder(inner.language_model, self.model.lm_head)
        self.grid = tuple(math.ceil(side / 2) for side in self.tower.facts.grid)
        self.layout = LlavaLayout(self)

    def encoder(self, frame_size: tuple[int, int]) -> LlavaModel:
        return self

    def preprocess(self, frames: Sequence[np.ndarray]) -> Tensor:
        """Frames, uint8 [H, W, 3] each and of any size -> pixels [F, 3, image size, image size]."""
        return self.loaded.preprocessor(frames, self.device, self.dtype)

    def project(self, features: Tensor) -> Tensor:
        """Projector, then bilinear pooling to half the rows and columns (27x27 -> 14x14); no newline token."""
        return self.model.model.apply_pooling(self.model.model.multi_modal_projector(features))

    def project_merged(self, features: Tensor) -> Tensor:
        """Projector alone: what was merged in the tower is not pooled as well."""
        return self.model.model.multi_modal_projector(features)

    @property
    def project_flops(self) -> int:
        """FLOPs of :meth:`project` for one frame."""
        facts = self.tower.facts
        return projector_flops(facts.num_tokens, facts.hidden_size, self.decoder.sizes.hidden_size)


class LlavaLayout:
    """System prompt, frames one after the other, question."""

    def __init__(self, model: LlavaModel) -> None:
        # Looked up when it is needed: a model may be moved or cast after this is made.
        self._newline = (lambda: model.model.model.image_newline[None]) if model.settings.image_newline else None

    def opening(self) -> list[Segment]:
        return [Text(INIT)]

    def frames(self, frames: Sequence[VisualTokens], continues: bool = False) -> list[Segment]:
        return [Clip(tuple(frames), continues)]

    def closing(self) -> list[Segment]:
        return [Embedded(self._newline())] if self._newline else []

    def question(self, question: Question, reader: str, message: str = "") -> list[Segment]:
        return [Text(answer_prompt(question))]


def question_body(question: Question) -> str:
    """The question as the model reads it: with lettered options for multiple choice, as it is otherwise."""
    if not question.options:
        return question.text
    options = [f"({letter}) {option}" for letter, option in zip(question.letters, question.options, strict=True)]
    return "\n".join((f"Question: {question.text}", "Options:", *options, "Only give the best option."))


def answer_prompt(question: Question) -> str:
    """What follows the video, up to where the answer starts.

    An official prompt takes the place of the question's own form, with the first words of the answer that belong
    to it; without a chat template it stands alone, as released evaluation code hands it over.
    """
    if not question.chat_template:
        return question.prompt
    if question.prompt:
        return f"\n{question.prompt}{ANSWER_START}{question.answer_start}"
    start = CHOICE_START if question.options else ""
    return f"\n{question_body(question)}{ANSWER_START}{start}"


@dataclass(frozen=True)
class LoadedLlava(LoadedText):
    """A loaded checkpoint. ``stop_ids``: tokens that end an answer."""

    model: LlavaOnevisionForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase
    preprocessor: FramePreprocessor
    stop_ids: frozenset[int]


def load_checkpoint(checkpoint: Checkpoint, dtype: torch.dtype) -> LoadedLlava:
    """Weights on the CPU in ``dtype``, tokenizer and processor constants of a checkpoint folder; no network.

    Raises ``ValueError`` when weights are missing or left over, or when the processor is of another kind.
    """
    from transformers import LlavaOnevisionForConditionalGeneration

    preprocessor = FramePreprocessor.from_config(*processor_config(checkpoint))
    model, tokenizer = pretrained(checkpoint, LlavaOnevisionForConditionalGeneration, dtype)
    if model.config.vision_feature_select_strategy != "full":
        strategy = model.config.vision_feature_select_strategy
        raise ValueError(f"{checkpoint.folder}: vision_feature_select_strategy={strategy} is not supported, only full")
    ends = stop_ids_of(
        model.generation_config.eos_token_id, model.config.text_config.eos_token_id, tokenizer.eos_token_id
    )
    return LoadedLlava(model, tokenizer, preprocessor, ends)

"""``backbone=dispider``: perception, decision and reaction in three networks (arXiv:2501.03218)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from stc_lab.backbones.base import Backbone, VideoModel
from stc_lab.backbones.dispider.checkpoint import LoadedDispider, load_dispider
from stc_lab.backbones.dispider.networks import Compressor, mix, read_sizes
from stc_lab.backbones.dispider.trigger import DispiderTrigger
from stc_lab.backbones.llava_onevision import question_body
from stc_lab.language import TextDecoder
from stc_lab.language.sequence import Clip, Segment, Text
from stc_lab.memories.base import ModelFacts
from stc_lab.types import Question, VisualTokens
from stc_lab.vision import ClipTower

# The prompt of the released scripts: a conversation in which the video stands in front of the question.
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
CHOICE_START = "The best answer is:"
MARKERS = ("<im_start>", "<im_end>")


@dataclass(frozen=True, kw_only=True)
class Dispider(Backbone):
    """Settings. ``tokens_per_frame``: visual tokens of a frame before pruning, which follow from the checkpoint
    (official: 64); ``asynchronous``: decode submitted answers beside the stream.

    Pruners work on what the large model reads of each frame; the class token is recomputed by cachers that protect
    special tokens.
    """

    name: str = "dispider"
    tokens_per_frame: int = 196
    asynchronous: bool = False
    answer_reader: Literal["generate", "letter_logits"] = "generate"

    pocket: ClassVar[str] = "dispider"
    required_files: ClassVar[tuple[str, ...]] = ("config.json",)
    at_least_one: ClassVar[tuple[str, ...]] = ("tokens_per_frame",)
    memories: ClassVar[tuple[str, ...]] = ("dispider",)
    offers: ClassVar[frozenset[str]] = frozenset(
        {"kv", "features", "places", "equal_counts", "merges_in_tower", "clip_compressor"}
    )
    decides_by_itself: ClassVar[bool] = True

    def facts(self) -> ModelFacts:
        files = self.local_files()
        if files is None:
            return ModelFacts(self.checkpoint, self.tokens_per_frame, self.offers)
        sizes = read_sizes(files)
        if self.tokens_per_frame != sizes.tokens_per_frame:
            rows, columns = sizes.grid
            raise ValueError(
                f"backbone.tokens_per_frame={self.tokens_per_frame}: backbone.checkpoint={self.checkpoint} joins "
                f"patches to {rows}x{columns} tokens; set backbone.tokens_per_frame={sizes.tokens_per_frame}"
            )
        return ModelFacts(
            self.checkpoint,
            self.tokens_per_frame,
            self.offers,
            max_positions=sizes.language.get("max_position_embeddings"),
            suggested=files.suggested,
        )

    def load(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> DispiderVideoModel:
        files = self.all_files()
        facts = self.facts()
        model = DispiderVideoModel(self, facts, load_dispider(files, dtype or torch.get_default_dtype()))
        return model if device is None else model.to(device)


class DispiderVideoModel(VideoModel):
    """CLIP and a small language model (``compressor``) turn clips into memories; a large one reads a few of them.

    Frames of any size are resized to one, so there is one encoder: the model.
    """

    def __init__(self, settings: Dispider, facts: ModelFacts, loaded: LoadedDispider) -> None:
        super().__init__(settings, facts)
        self.loaded, self.model = loaded, loaded.model
        self.tower = ClipTower(self.model.vision, loaded.sizes.select_layer)
        self.grid = loaded.sizes.grid
        self.decoder = TextDecoder(self.model.language.model, self.model.language.lm_head)
        self.compressor = Compressor(
            TextDecoder(self.model.compressor["model"], self.model.silent_head),
            loaded.compressor_ids,
            self.model.mm_projector["mlp"],
            self.model.compress_projector,
            loaded.sizes.pool_num,
            self.tower.facts.num_special_tokens,
        )
        self.silent_id = loaded.silent_id
        self.layout = DispiderLayout(self)

    def encoder(self, frame_size: tuple[int, int]) -> DispiderVideoModel:
        return self

    def trigger(self) -> DispiderTrigger:
        return DispiderTrigger()

    def preprocess(self, frames: Sequence[np.ndarray]) -> Tensor:
        """Frames, uint8 [H, W, 3] each and of any size -> pixels [F, 3, image size, image size]."""
        return self.loaded.preprocessor(frames, self.device, self.dtype)

    def project(self, features: Tensor) -> Tensor:
        """Patches joined two by two, as the language model reads them; the compressor has a projector of its own."""
        return self.model.clip_projector(mix(features[:, self.tower.facts.num_special_tokens :]))

    def project_merged(self, features: Tensor) -> Tensor:
        """Merged tokens have no neighbours that could be joined: a cacher that merges is refused."""
        raise ValueError(f"backbone={self.settings.name} needs its own grid of tokens")

    @property
    def project_flops(self) -> int:
        """FLOPs of :meth:`project` for one frame."""
        layers = [layer for layer in self.model.clip_projector.modules() if isinstance(layer, torch.nn.Linear)]
        return sum(2 * self.facts.tokens_per_frame * layer.weight.numel() for layer in layers)

    def letter_id(self, letter: str) -> int:
        """Token with which an answer says ``letter``: after a space where that is a token, else alone."""
        spaced = self.token_ids(f" {letter}")
        return spaced[0] if len(spaced) == 1 else super().letter_id(letter)


class DispiderLayout:
    """System prompt, clips, question; the markers of the video where the checkpoint was trained with them."""

    def __init__(self, model: DispiderVideoModel) -> None:
        self._token_ids = model.token_ids
        self._has_markers = model.loaded.sizes.uses_image_markers

    def opening(self) -> list[Segment]:
        # Tokenized alone, so that it never joins with what follows a video without frames.
        return [Text(ids=tuple(self._token_ids(before_video(self._has_markers))))]

    def frames(self, frames: Sequence[VisualTokens], continues: bool = False) -> list[Segment]:
        return [Clip(tuple(frames), continues)]

    def closing(self) -> list[Segment]:
        return []

    def question(self, question: Question, reader: str, message: str = "") -> list[Segment]:
        return [Text(after_video(question, self._has_markers))]


def before_video(uses_image_markers: bool = False) -> str:
    """Text up to the visual tokens."""
    return f"{SYSTEM} USER: {MARKERS[0] if uses_image_markers else ''}"


def after_video(question: Question, uses_image_markers: bool = False) -> str:
    """Text from the visual tokens to where the answer starts.

    An official prompt takes the place of the question's own form, with the first words of the answer that belong to
    it; multiple choice in its own form starts as in the released Video-MME script.
    """
    body, start = question_body(question), CHOICE_START if question.options else ""
    if question.prompt:
        body, start = question.prompt, question.answer_start
    marker = MARKERS[1] if uses_image_markers else ""
    return f"{marker}\n{body} ASSISTANT:{f' {start}' if start else ''}"

"""``backbone=streamforest``: SigLIP and Qwen2, trained with a memory in the space of the tower (arXiv:2509.24871)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from stc_lab.backbones.base import Backbone, VideoModel
from stc_lab.backbones.streamforest.checkpoint import (
    LoadedStreamForest,
    check_config,
    load_streamforest,
    tower_tokens,
)
from stc_lab.cachers.merging import merge_tokens
from stc_lab.language.decoder import TextDecoder
from stc_lab.language.sequence import Clip, Segment, Text
from stc_lab.memories.base import ModelFacts
from stc_lab.types import Question, VisualTokens
from stc_lab.vision import SiglipTower

TEMPORAL_LENGTH = 512
"""Frames after which the temporal table starts again."""

# The prompt of the released evaluation, line breaks included.
BEFORE_VIDEO = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
ANSWER_START = "<|im_end|>\n<|im_start|>assistant\n"
CHOICE_REQUEST = "Answer with the option's letter from the given choices directly."


@dataclass(frozen=True, kw_only=True)
class StreamForest(Backbone):
    """Settings. ``tokens_per_frame``: tokens of a frame in the fine-grained window of the memory, which a pruner's
    budget is a share of."""

    name: str = "streamforest"
    tokens_per_frame: int = 128
    answer_reader: Literal["generate", "letter_logits"] = "generate"

    pocket: ClassVar[str] = "streamforest"
    required_files: ClassVar[tuple[str, ...]] = ("config.json", "tokenizer_config.json")
    at_least_one: ClassVar[tuple[str, ...]] = ("tokens_per_frame",)
    memories: ClassVar[tuple[str, ...]] = ("streamforest",)
    offers: ClassVar[frozenset[str]] = frozenset({"kv", "features", "merges_in_tower", "frame_positions"})

    def facts(self) -> ModelFacts:
        files = self.local_files()
        config = files.json("config.json") if files else {}
        if files:
            check_config(config, files.name)
        return ModelFacts(
            self.checkpoint,
            self.tokens_per_frame,
            self.offers,
            max_positions=config.get("max_position_embeddings"),
            features_per_frame=tower_tokens(config),
            suggested=files.suggested if files else {},
        )

    def load(
        self, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> StreamForestVideoModel:
        files = self.all_files()
        facts = self.facts()
        model = StreamForestVideoModel(self, facts, load_streamforest(files, dtype or torch.get_default_dtype()))
        return model if device is None else model.to(device)


class StreamForestVideoModel(VideoModel):
    """Frames of any size are resized to one, so there is one encoder: the model. Its grid is that of the tower.

    The memory keeps features of the tower; the projector runs on what a question reads of it.
    """

    project_flops = 0

    def __init__(self, settings: StreamForest, facts: ModelFacts, loaded: LoadedStreamForest) -> None:
        super().__init__(settings, facts)
        self.loaded, self.model = loaded, loaded.model
        self.tower = SiglipTower(self.model.vision)
        self.decoder = TextDecoder(self.model.language.model, self.model.language.lm_head)
        self.grid = self.tower.facts.grid
        self.frame_positions = FramePositions(self.tower.facts.hidden_size, self.grid[0])
        self.layout = StreamForestLayout(self)

    def encoder(self, frame_size: tuple[int, int]) -> StreamForestVideoModel:
        return self

    def preprocess(self, frames: Sequence[np.ndarray]) -> Tensor:
        """Frames, uint8 [H, W, 3] each and of any size -> pixels [F, 3, image size, image size]."""
        return self.loaded.preprocessor(frames, self.device, self.dtype)

    def project(self, features: Tensor) -> Tensor:
        """Features [F, T, C] -> visual tokens [F, T, H]; nothing is pooled."""
        return self.model.projector(features)

    def project_merged(self, features: Tensor) -> Tensor:
        """The same for what the memory merged."""
        return self.model.projector(features)

    def project_image(self, features: Tensor, num_tokens: int | None = None) -> Tensor:
        """A single image's features [F, T, C] -> visual tokens [F, num_tokens, H]; no time, and no memory.

        ``num_tokens``: all by default; the released code draws all or 128 at random, also at inference.
        """
        placed = self.frame_positions.add_place(features)
        return self.model.projector(merge_tokens(placed, num_tokens or features.shape[1], self.tower.facts.num_heads))


class FramePositions(nn.Module):
    """Adds a place and a time to tower features of width C, a multiple of 16, by fixed sine-cosine tables.

    The first quarter of the channels gets the index of the frame, modulo 512; of the rest, the first half gets the
    column and the second half the row. The tables are no part of a checkpoint.
    """

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        if width % 16:
            raise ValueError(f"mm_hidden_size={width}: position tables need a multiple of 16")
        self.register_buffer("temporal", temporal_table(width), persistent=False)
        self.register_buffer("spatial", spatial_table(width, side), persistent=False)

    def forward(self, features: Tensor, first_index: int) -> Tensor:
        """Features [F, T, C] of the frames ``first_index ...`` of a stream -> the same with both tables added."""
        index = torch.arange(first_index, first_index + len(features), device=features.device) % TEMPORAL_LENGTH
        return self.add_place(features) + self.temporal[index, None].to(features.dtype)

    def add_place(self, features: Tensor) -> Tensor:
        """The spatial table alone, for single images."""
        return features + self.spatial.to(features.dtype)


def temporal_table(width: int, length: int = TEMPORAL_LENGTH) -> Tensor:
    """[length, width]: sines and cosines in the first quarter of the channels, zeros behind."""
    waves = _waves(torch.arange(length), width // 4)
    return torch.cat((waves, waves.new_zeros(length, width - width // 4)), dim=1)


def spatial_table(width: int, side: int) -> Tensor:
    """[side * side, width], row by row: zeros in the first quarter of the channels, then column, then row."""
    along = _waves(torch.arange(side), width * 3 // 8)
    columns, rows = along.repeat(side, 1), along.repeat_interleave(side, dim=0)
    return torch.cat((along.new_zeros(side * side, width // 4), columns, rows), dim=1)


def _waves(positions: Tensor, width: int) -> Tensor:
    """[P, width]: sines, then cosines, at frequencies 10000^(-i / (width / 2))."""
    half = width // 2
    frequencies = 1.0 / 10000 ** (torch.arange(half, dtype=torch.float32) / half)
    angles = positions.float()[:, None] * frequencies
    return torch.cat((angles.sin(), angles.cos()), dim=1)


class StreamForestLayout:
    """System prompt, the memory, what is told about its times, question."""

    def __init__(self, model: StreamForestVideoModel) -> None:
        self._token_ids = model.token_ids

    def opening(self) -> list[Segment]:
        # Tokenized alone, so that its last line break never joins with what follows a video without frames.
        return [Text(ids=tuple(self._token_ids(BEFORE_VIDEO)))]

    def frames(self, frames: Sequence[VisualTokens], continues: bool = False) -> list[Segment]:
        return [Clip(tuple(frames), continues)]

    def closing(self) -> list[Segment]:
        return []

    def question(self, question: Question, reader: str, message: str = "") -> list[Segment]:
        return [Text(after_video(question, message))]


def question_body(question: Question) -> str:
    """The question with lettered options for multiple choice, as it is otherwise."""
    if not question.options:
        return question.text
    options = [f"{letter}. {option}" for letter, option in zip(question.letters, question.options, strict=True)]
    return "\n".join((question.text, *options, CHOICE_REQUEST))


def after_video(question: Question, message: str) -> str:
    """What follows the visual tokens, up to where the answer starts; an official prompt replaces the own form."""
    body = question.prompt or question_body(question)
    return f"\n{message}{body}{ANSWER_START}{question.answer_start}"

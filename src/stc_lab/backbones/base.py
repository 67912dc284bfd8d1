"""The contract of a video language model: settings that Hydra builds, facts without weights, and the loaded model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from stc_lab.backbones.checkpoints import Checkpoint, fetched_checkpoint, stored_checkpoint
from stc_lab.cachers.base import Cacher
from stc_lab.language.chat import LoadedText
from stc_lab.language.decoder import TextDecoder
from stc_lab.language.sequence import Axes, Cursor, Segment, TokenSequence, sequence
from stc_lab.memories.base import Layout, Memory, ModelFacts, require_at_least_one
from stc_lab.memories.recent import num_to_prune
from stc_lab.pruners.base import Pruner
from stc_lab.triggers import Trigger
from stc_lab.vision.tower import VisionTower

READERS = ("generate", "letter_logits")


@dataclass(frozen=True, kw_only=True)
class Backbone(ABC):
    """Settings of a model, the ``_target_`` of ``conf/backbone/NAME.yaml``: every setting is declared here, once.

    ``pocket``: folder of the shipped model; ``required_files`` of a checkpoint; ``readers``: ways to read an answer;
    ``at_least_one``: fields that must be at least 1 where they are given; ``memories``: names of those that this model
    can have (``None``: any whose needs it meets). Raises ``ValueError`` naming the field for a value that cannot work.
    """

    name: str = ""
    checkpoint: str = "pocket"
    revision: str | None = None
    max_new_tokens: int = 16
    answer_reader: str = "generate"

    pocket: ClassVar[str]
    required_files: ClassVar[tuple[str, ...]] = ("config.json", "tokenizer.json")
    readers: ClassVar[tuple[str, ...]] = READERS
    at_least_one: ClassVar[tuple[str, ...]] = ()
    memories: ClassVar[tuple[str, ...] | None] = None
    repetition_penalty: ClassVar[float] = 1.0
    decides_by_itself: ClassVar[bool] = False
    asynchronous: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_at_least_one("backbone", self, ("max_new_tokens", *self.at_least_one))
        self.require_choice("answer_reader", self.readers)

    @abstractmethod
    def facts(self) -> ModelFacts:
        """From ``config.json``, without weights and network; the official numbers where a hub id is not cached.

        Raises ``ValueError`` when the files are of another kind of model, or do not fit these settings.
        """

    @abstractmethod
    def load(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> VideoModel:
        """The model on ``device`` (default: CPU) in ``dtype`` (default: torch's); fetches a hub id where there is a
        network. Raises ``ValueError`` when weights are missing, left over or of another shape."""

    def check(self, cacher: Cacher, pruner: Pruner, memory: Memory, facts: ModelFacts | None = None) -> None:
        """Raise ``ValueError`` where these make no sense together, naming field, value and fix; loads nothing.

        ``facts``: those of the model, where they are known already.
        """
        facts = facts or self.facts()
        if self.memories is not None and memory.name not in self.memories:
            raise ValueError(
                f"memory={memory.name}: backbone={self.name} was trained with a memory of its own; choose "
                f"memory={' or memory='.join(self.memories)}, or a plain model such as backbone=llava_onevision"
            )
        if cacher.merges_in_tower and "merges_in_tower" not in facts.offers:
            raise ValueError(
                f"cacher={cacher.name}: it merges tokens inside the tower, but the towers of Qwen-VL models turn every "
                "token by its place; use another cacher, or merge after the tower with pruner=visionzip"
            )
        if cacher.merged_tokens is not None and "merged_tokens" not in facts.offers:
            raise ValueError(f"cacher.output=merged: backbone={self.name} needs its own grid of tokens; set grid")
        # A memory of features prunes when it is read, and says itself whether it can.
        if memory.takes == "tokens":
            pruner.check(num_to_prune(facts, cacher))
        memory.check(facts, cacher, pruner)

    def local_files(self) -> Checkpoint | None:
        """The checkpoint if its files are on this machine. Raises ``ValueError`` where there can be none."""
        return stored_checkpoint(self.checkpoint, self.revision, self.pocket, self.required_files)

    def all_files(self) -> Checkpoint:
        """The checkpoint, fetched if need be. Raises ``ValueError`` where it cannot be."""
        return self.local_files() or fetched_checkpoint(self.checkpoint, self.revision, self.required_files)

    def require_choice(self, field: str, valid: Sequence[str]) -> None:
        """Raise ``ValueError`` when a field has none of the ``valid`` values."""
        if getattr(self, field) not in valid:
            raise ValueError(f"backbone.{field}={getattr(self, field)}: must be one of {', '.join(valid)}")


class FrameEncoder(Protocol):
    """A model as it sees frames of one size; it holds no state of a stream.

    ``grid``: (rows, columns) of the visual tokens of a frame before pruning.
    """

    tower: VisionTower
    grid: tuple[int, int]
    project_flops: int

    def preprocess(self, frames: Sequence[np.ndarray]) -> Tensor:
        """Frames, uint8 [H, W, 3] each (pairs: [2, H, W, 3]) -> normalised pixels on the device of the model."""
        ...

    def project(self, features: Tensor) -> Tensor:
        """Tower features [F, T, C] -> visual tokens [F, rows * columns, H] of the language model."""
        ...

    def project_merged(self, features: Tensor) -> Tensor:
        """Features [F, N, C] of merged tokens -> visual tokens [F, N, H]: :meth:`project` without the pooling."""
        ...


class VideoModel(nn.Module, ABC):
    """A loaded model: weights, tokenizer, prompts. It holds no state of a stream.

    It is a module, so that a trainer can move and cast it; adapters over its parts own no weights. ``decoder`` runs
    the language model, ``layout`` says where frames and words stand, ``axes`` how they are placed (``None``: tokens
    count on).
    """

    settings: Backbone
    facts: ModelFacts
    decoder: TextDecoder
    layout: Layout
    loaded: LoadedText
    axes: Axes | None = None
    placeholder_id: int = -1

    def __init__(self, settings: Backbone, facts: ModelFacts) -> None:
        super().__init__()
        self.settings, self.facts = settings, facts

    @abstractmethod
    def encoder(self, frame_size: tuple[int, int]) -> FrameEncoder:
        """The model as it sees frames of (height, width) pixels; the same object for the same size."""

    def pairing(self) -> Pairing | None:
        """Joins frames to temporal patches, for towers that take several video frames as one."""
        return None

    def trigger(self) -> Trigger | None:
        """What decides when to respond, for models that are trained to."""
        return None

    def sequence(
        self, segments: Sequence[Segment], cursor: Cursor | None = None, axes: Axes | None = None
    ) -> TokenSequence:
        """Segments as embeddings, positions and extras of layers: the only way into the decoder.

        ``axes``: how they are placed, where not as the model is used to.
        """
        return sequence(
            segments, self.decoder.embed, self.token_ids, self.placeholder_id, axes or self.axes, cursor
        )

    def token_ids(self, text: str) -> list[int]:
        """Ids of ``text`` as it stands, chat markers included and nothing added."""
        return self.loaded.token_ids(text)

    def text(self, token_ids: Sequence[int]) -> str:
        """Text of generated ids without special tokens."""
        return self.loaded.text(token_ids)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return self.loaded.stop_ids

    def letter_id(self, letter: str) -> int:
        """Token with which an answer says ``letter``. Raises ``ValueError`` if the tokenizer splits it."""
        ids = self.token_ids(letter)
        if len(ids) != 1:
            raise ValueError(f"backbone.checkpoint={self.settings.checkpoint}: its tokenizer has no token '{letter}'")
        return ids[0]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.parameters()).dtype

    def extra_repr(self) -> str:
        return repr(self.settings)


class Pairing(Protocol):
    """Of one stream: which video frames make a temporal patch, and what the clock says about it."""

    num_frames: int
    waiting: np.ndarray | None

    def take(
        self, frames: Sequence[np.ndarray], times_s: Sequence[float]
    ) -> tuple[list[np.ndarray], list[float], list[tuple[float, float]]]:
        """Pairs [2, H, W, 3] that are complete now, the timestamps of their second frames, and the time that each
        covers (start, stop). Raises ``ValueError`` for a frame that is no picture, or of another size than its partner.
        """
        ...

    def half(self) -> tuple[np.ndarray, tuple[float, float]]:
        """The waiting frame shown twice, and the time that it covers."""
        ...

    def commit_half(self) -> tuple[np.ndarray, tuple[float, float]]:
        """As :meth:`half`; the next frame begins a new pair."""
        ...

"""``backbone=qwen2_vl`` and ``qwen2_5_vl``: frames in pairs, at their own shape, on three axes of position.

LiveCC and StreamingVLM are such models, trained to speak while they watch; their presets name the memory they know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from stc_lab.backbones.base import Backbone, VideoModel
from stc_lab.backbones.checkpoints import Checkpoint
from stc_lab.backbones.qwen_vl.checkpoint import FrameBudget, LoadedQwen, check_model, load_checkpoint
from stc_lab.language.chat import ASSISTANT, CLOSE, SYSTEM, USER, VISION_END, VISION_START
from stc_lab.language.decoder import TextDecoder
from stc_lab.language.sequence import Clip, Segment, Text, TimeRowColumn
from stc_lab.memories.base import ModelFacts
from stc_lab.types import Question, VisualTokens
from stc_lab.vision import QwenTower
from stc_lab.vision.qwen import MERGE

ROUNDING_S = 1e-6
Span = tuple[float, float]
"""Stream time (start, stop) that a pair covers."""


@dataclass
class Pairing:
    """Joins frames of a stream sampled at ``fps`` to pairs; the last one may wait for its partner.

    The time of a frame is the point of the sampling grid for which it was shown, k / fps: half a second apart at 2
    frames a second, whatever their own timestamps are, and further apart only where frames were left out.
    """

    fps: float
    num_frames: int = 0
    waiting: np.ndarray | None = None
    _waiting_s: float = 0.0
    _next_s: float = 0.0

    def take(
        self, frames: Sequence[np.ndarray], times_s: Sequence[float]
    ) -> tuple[list[np.ndarray], list[float], list[Span]]:
        """Pairs [2, H, W, 3] that are complete now, the timestamps of their second frames, and the spans they cover.

        Raises ``ValueError`` for a frame that is no picture, or of another size than its partner.
        """
        pairs, stamps, spans = [], [], []
        for frame, time_s in zip(frames, times_s, strict=True):
            _check(frame)
            start_s = self._tick(time_s)
            # The first frame of a pair waits; the second completes it.
            if self.waiting is None:
                self.waiting, self._waiting_s = frame, start_s
            else:
                pairs.append(self._joined(self.waiting, frame))
                stamps.append(time_s)
                spans.append(self._span())
                self.waiting = None
        return pairs, stamps, spans

    def half(self) -> tuple[np.ndarray, Span]:
        """The waiting frame twice, as the official processors pad a clip, and the span that it covers."""
        return np.stack((self.waiting, self.waiting)), self._span()

    def commit_half(self) -> tuple[np.ndarray, Span]:
        """As :meth:`half`; the next frame begins a new pair."""
        half = self.half()
        self.waiting = None
        return half

    def _span(self) -> Span:
        return self._waiting_s, self._waiting_s + 2 / self.fps

    def _tick(self, time_s: float) -> float:
        shown_s = int(time_s * self.fps + ROUNDING_S) / self.fps
        start_s = max(self._next_s, shown_s) if self.num_frames else shown_s
        self._next_s = start_s + 1.0 / self.fps
        self.num_frames += 1
        return start_s

    def _joined(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        if first.shape != second.shape:
            raise ValueError(f"two frames of a pair have different sizes: {first.shape[:2]} and {second.shape[:2]}")
        return np.stack((first, second))


def _check(frame: np.ndarray) -> None:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise ValueError(f"a frame must be uint8 [H, W, 3], got {frame.dtype} {list(frame.shape)}")


MAX_ENCODERS = 16
"""Frame sizes whose tower tables are kept."""

CHOOSE = "Please select the correct answer."
ANSWER_START = "The answer is:\n"


@dataclass(frozen=True, kw_only=True)
class QwenVL(Backbone):
    """Settings of a Qwen2-VL or Qwen2.5-VL checkpoint; ``None`` for a size: as the checkpoint says, else as official.

    ``fps``: frames a second that are pushed; ``tokens_per_frame`` and ``min_tokens_per_frame``: most and fewest visual
    tokens of a temporal patch, of two video frames; ``repetition_penalty`` of generated answers (1: none).
    """

    fps: float = 2.0
    tokens_per_frame: int | None = None
    min_tokens_per_frame: int | None = None
    repetition_penalty: float = 1.05
    answer_reader: Literal["letter_logits", "choice_logits", "generate"] = "letter_logits"

    readers: ClassVar[tuple[str, ...]] = ("letter_logits", "choice_logits", "generate")
    at_least_one: ClassVar[tuple[str, ...]] = ("tokens_per_frame", "min_tokens_per_frame")
    offers: ClassVar[frozenset[str]] = frozenset({"kv", "features", "places", "equal_counts", "turns"})
    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl", "qwen2_5_vl")
    official_tokens: ClassVar[int] = 768
    official_min_tokens: ClassVar[int] = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.fps > 0:
            raise ValueError(f"backbone.fps={self.fps}: must be above 0 frames per second")
        if not self.repetition_penalty > 0:
            raise ValueError(f"backbone.repetition_penalty={self.repetition_penalty}: must be above 0 (1: none)")

    def facts(self) -> ModelFacts:
        return self._facts(self.local_files())

    def load(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> QwenModel:
        files = self.all_files()
        loaded = load_checkpoint(files, dtype or torch.get_default_dtype())
        model = QwenModel(self, self._facts(files), loaded, self.frame_budget(files))
        return model if device is None else model.to(device)

    def frame_budget(self, files: Checkpoint | None) -> FrameBudget:
        """Sizes at which frames are shown. Raises ``ValueError`` when the smallest exceeds the largest."""
        suggested = files.suggested.get(self.pocket, {}) if files else {}
        vision = files.json("config.json").get("vision_config", {}) if files else {}
        most = self.tokens_per_frame or suggested.get("tokens_per_frame", self.official_tokens)
        least = self.min_tokens_per_frame
        least = least or min(most, suggested.get("min_tokens_per_frame", self.official_min_tokens))
        if least > most:
            raise ValueError(f"backbone.min_tokens_per_frame={least}: must be at most tokens_per_frame={most}")
        return FrameBudget.of_tokens(MERGE * vision.get("patch_size", 14), least, most)

    def _facts(self, files: Checkpoint | None) -> ModelFacts:
        if files is not None:
            check_model(files, self.name, self.model_types)
        config = files.json("config.json") if files else {}
        text = config.get("text_config", config)
        return ModelFacts(
            self.checkpoint,
            self.frame_budget(files).max_tokens,
            self.offers,
            max_positions=text.get("max_position_embeddings"),
            num_axes=3,
            frames_per_patch=2,
            suggested=files.suggested if files else {},
        )


@dataclass(frozen=True, kw_only=True)
class Qwen2VL(QwenVL):
    """The plain instruct model (arXiv:2409.12191)."""

    name: str = "qwen2_vl"

    pocket: ClassVar[str] = "livecc"
    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl",)


@dataclass(frozen=True, kw_only=True)
class Qwen2_5VL(QwenVL):
    """The plain instruct model (arXiv:2502.13923)."""

    name: str = "qwen2_5_vl"

    pocket: ClassVar[str] = "streamingvlm"
    model_types: ClassVar[tuple[str, ...]] = ("qwen2_5_vl",)


@dataclass(frozen=True, kw_only=True)
class LiveCC(QwenVL):
    """Qwen2-VL that comments on a video while it runs (arXiv:2504.16030)."""

    name: str = "livecc"

    pocket: ClassVar[str] = "livecc"
    memories: ClassVar[tuple[str, ...] | None] = ("livecc", "oneshot")
    official_tokens: ClassVar[int] = 384
    official_min_tokens: ClassVar[int] = 100


@dataclass(frozen=True, kw_only=True)
class StreamingVLM(QwenVL):
    """Qwen2.5-VL that comments on an endless stream (arXiv:2510.09608)."""

    name: str = "streamingvlm"

    pocket: ClassVar[str] = "streamingvlm"
    memories: ClassVar[tuple[str, ...] | None] = ("streamingvlm", "oneshot")
    official_min_tokens: ClassVar[int] = 100


class QwenModel(VideoModel):
    """``model`` is the Hugging Face model, ``budget`` the frame sizes. Videos differ in shape, so tower, grid and token
    number belong to an encoder of one size."""

    def __init__(self, settings: QwenVL, facts: ModelFacts, loaded: LoadedQwen, budget: FrameBudget) -> None:
        super().__init__(settings, facts)
        self.loaded, self.budget = loaded, budget
        self.model = loaded.model
        self.decoder = TextDecoder(self.model.model.language_model, self.model.lm_head)
        # Qwen2.5-VL places temporal patches by time, Qwen2-VL by number.
        rate = getattr(self.model.config.vision_config, "tokens_per_second", None)
        self.axes = TimeRowColumn(1.0 if rate is None else rate * 2 / settings.fps)
        self.layout = QwenLayout()
        self.placeholder_id = loaded.video_id
        self._encoders: dict[tuple[int, int], QwenEncoder] = {}

    def encoder(self, frame_size: tuple[int, int]) -> QwenEncoder:
        size = self.budget.fit(*frame_size)
        if size not in self._encoders:
            # The one that was made first goes first.
            while len(self._encoders) >= MAX_ENCODERS:
                self._encoders.pop(next(iter(self._encoders)))
            self._encoders[size] = QwenEncoder(self, size)
        return self._encoders[size]

    def pairing(self) -> Pairing:
        return Pairing(self.settings.fps)

    def letter_id(self, letter: str) -> int:
        """Token with which an answer says ``letter`` after a line break; words work as well if they are one token."""
        token = self.token_ids(f"\n{letter}")[-1]
        if self.text([token]).strip() != letter:
            raise ValueError(f"backbone.checkpoint={self.settings.checkpoint}: its tokenizer has no token '{letter}'")
        return token

    @property
    def silence_id(self) -> int:
        """Token that says nothing (`` ...``)."""
        return self.loaded.silence_id

    @property
    def end_of_turn_id(self) -> int:
        """Token that ends a turn of the chat."""
        return self.loaded.im_end_id


class QwenEncoder:
    """Tower, grid and pixels for pairs of frames that are shown at ``size`` (height, width)."""

    def __init__(self, model: QwenModel, size: tuple[int, int]) -> None:
        self.size = size
        self._model = model
        patch = model.loaded.preprocessor.patch_size
        self.tower = QwenTower(model.model.model.visual, (size[0] // patch, size[1] // patch))
        self.grid = self.tower.facts.grid
        self.project_flops = self.tower.merge_flops

    def preprocess(self, frames: Sequence[np.ndarray]) -> Tensor:
        """Pairs, uint8 [2, H, W, 3] each -> packed patches [F, T, 3 * 2 * patch * patch]."""
        return self._model.loaded.preprocessor(frames, self.size, self._model.device, self._model.dtype)

    def project(self, features: Tensor) -> Tensor:
        """Tower features [F, G, 4 C] -> visual tokens [F, G, H], row by row: the model's merger."""
        return self.tower.merge(features)

    def project_merged(self, features: Tensor) -> Tensor:
        """Not possible: three-axis positions need the grid. Raises ``ValueError``."""
        raise ValueError("cacher.output=merged: a Qwen-VL model needs its own grid of tokens; use output=grid")


class QwenLayout:
    """System prompt, one video between its marks, question, all in the chat template."""

    def opening(self) -> list[Segment]:
        return [Text(f"{SYSTEM}{USER}{VISION_START}")]

    def frames(self, frames: Sequence[VisualTokens], continues: bool = False) -> list[Segment]:
        return [Clip(tuple(frames), continues)]

    def closing(self) -> list[Segment]:
        return [Text(VISION_END)]

    def question(self, question: Question, reader: str, message: str = "") -> list[Segment]:
        return [Text(f"{message}{question_text(question)}{CLOSE}{ASSISTANT}{answer_start(question, reader)}")]


def question_text(question: Question) -> str:
    """A benchmark's official prompt, or the question and its lettered options."""
    if question.prompt:
        return question.prompt
    if not question.options:
        return question.text
    options = [f"{letter}. {option}" for letter, option in zip(question.letters, question.options, strict=True)]
    return "\n".join((question.text, *options, CHOOSE))


def answer_start(question: Question, reader: str) -> str:
    """Words put into the model's mouth: the benchmark's, else LiveCC's where the answer is read from logits."""
    if question.answer_start or reader == "generate":
        return question.answer_start
    return ANSWER_START

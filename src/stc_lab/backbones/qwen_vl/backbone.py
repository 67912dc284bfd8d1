"""A backbone on a Qwen2-VL or Qwen2.5-VL checkpoint: loading, frame sizes, answer tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from stc_lab.backbones.checkpoints import Checkpoint
from stc_lab.backbones.qwen_vl.loading import LoadedQwen, load_qwen_vl
from stc_lab.backbones.qwen_vl.options import QwenOptions
from stc_lab.backbones.qwen_vl.view import FrameView
from stc_lab.backbones.text_backbone import TextBackbone
from stc_lab.language import TextDecoder
from stc_lab.vision import QwenTower

if TYPE_CHECKING:
    from stc_lab.backbones.qwen_vl.session import QwenSession
    from stc_lab.cachers.base import Cacher
    from stc_lab.measure import StageTimer
    from stc_lab.pruners.base import Pruner

MAX_VIEWS = 16


class QwenVL(TextBackbone):
    """``model`` is the Hugging Face model, ``budget`` the frame sizes. A leaf says what its options and sessions are.

    Videos differ in shape, so tower, grid and token number belong to a :class:`FrameView`; those of the backbone
    itself are for square frames.
    """

    frames_per_patch = 2
    options_class: ClassVar[type[QwenOptions]]
    options: QwenOptions
    loaded: LoadedQwen

    def _load(self, files: Checkpoint, dtype: torch.dtype) -> None:
        self.lab_settings = files.lab_settings(self.options.name)
        self.loaded = load_qwen_vl(files, dtype)
        self.model = self.loaded.model
        self.budget = self.options.frame_budget(files, self.loaded.preprocessor.patch_size)
        self.decoder = TextDecoder(self.model.model.language_model, self.model.lm_head)
        self._views: dict[tuple[int, int], FrameView] = {}

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        """See :meth:`Backbone.check_settings`; a hub id that is not in the cache is only checked for its form."""
        options = cls.options_class.of(settings)
        files = options.local_files()
        vision = files.json("config.json").get("vision_config", {}) if files else {}
        options.frame_budget(files, vision.get("patch_size", 14))

    @classmethod
    def check_combination(cls, settings: Mapping[str, Any], cacher: Cacher, pruner: Pruner) -> None:
        """See :meth:`Backbone.check_combination`: budgets count tokens of a temporal patch, of two video frames."""
        pruner.check(cls.tokens_to_prune(cls.nominal_tokens(settings), cacher))

    @classmethod
    def tokens_to_prune(cls, tokens_per_frame: int, cacher: Cacher) -> int:
        """See :meth:`Backbone.tokens_to_prune`; raises ``ValueError`` for a cacher that merges tokens in the tower."""
        if cacher.merges_in_tower:
            raise ValueError(
                f"cacher={cacher.name}: it merges tokens inside the tower, but the towers of Qwen-VL models turn every "
                "token by its place; use another cacher, or merge after the tower with pruner=visionzip"
            )
        return super().tokens_to_prune(tokens_per_frame, cacher)

    @classmethod
    def nominal_tokens(cls, settings: Mapping[str, Any]) -> int:
        """Visual tokens of a temporal patch before pruning, at most; nothing is loaded."""
        options = cls.options_class.of(settings)
        return options.max_tokens(options.local_files())

    def open(self, cacher: Cacher, pruner: Pruner, timer: StageTimer | None = None) -> QwenSession:
        """See :meth:`Backbone.open`; budgets count tokens of a temporal patch, of two video frames."""
        pruner.check(self.tokens_to_prune(self.budget.max_tokens, cacher))
        return self._session_class()(self, cacher, pruner, timer)

    @abstractmethod
    def _session_class(self) -> type[QwenSession]:
        """What a stream runs in."""

    def view(self, height: int, width: int) -> FrameView:
        """The model as it sees video frames of that size."""
        size = self.budget.fit(height, width)
        if size not in self._views:
            while len(self._views) >= MAX_VIEWS:
                self._views.pop(next(iter(self._views)))
            self._views[size] = FrameView(self, size)
        return self._views[size]

    @property
    def square(self) -> FrameView:
        """The view of square frames."""
        side = int(self.budget.max_pixels**0.5)
        return self.view(side, side)

    @property
    def tower(self) -> QwenTower:
        """Tower of the square view."""
        return self.square.tower

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the square view."""
        return self.square.grid

    @property
    def tokens_per_frame(self) -> int:
        """Visual tokens of a temporal patch in the square view."""
        return self.square.tokens_per_frame

    def preprocess(self, frames: Sequence[np.ndarray]) -> Tensor:
        """Pairs, uint8 [2, H, W, 3] each -> packed patches, as the square view shows them."""
        return self.square.preprocess(frames)

    def project(self, features: Tensor) -> Tensor:
        """The merger on features of the square view."""
        return self.square.project(features)

    @property
    def project_flops(self) -> int:
        """FLOPs of :meth:`project` for one temporal patch."""
        return self.square.project_flops

    def letter_id(self, letter: str) -> int:
        """Token with which an answer says ``letter`` after a line break; words work as well if they are one token.

        Raises ``ValueError`` if the tokenizer has no such token.
        """
        token = self.loaded.token_ids(f"\n{letter}")[-1]
        if self.loaded.text([token]).strip() != letter:
            raise ValueError(f"backbone.checkpoint={self.options.checkpoint}: its tokenizer has no token '{letter}'")
        return token

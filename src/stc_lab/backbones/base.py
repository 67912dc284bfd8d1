"""What every backbone and every stream session offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from stc_lab.measure import StageTimer
from stc_lab.vision import VisionTower

if TYPE_CHECKING:
    from stc_lab.backbones.session import StreamSession
    from stc_lab.cachers.base import Cacher
    from stc_lab.pruners.base import Pruner


class Backbone(nn.Module, ABC):
    """A video language model: weights, tokenizer, prompts and answer reading. It holds no state of a stream.

    It is a module, so that a trainer can move and cast it; adapters over its parts own no weights. ``grid`` is
    (rows, columns) of the visual tokens of a frame before pruning, ``tokens_per_frame`` their number.
    ``takes_bare_prompts``: whether questions with ``chat_template=False`` are understood. ``asking_changes_stream``:
    whether a question leaves something behind in the session, so that a resumed stream must be asked it again.
    ``takes_merged_tokens``: whether :meth:`project_merged` works, so that merging in the tower can replace pooling.
    ``frames_per_patch``: video frames that the tower takes as one. ``shows_fidelity``: its sessions can show features
    and its answers have ``first_logits``, so that a run can be compared with the uncompressed one.
    ``decides_by_itself``: its sessions are :class:`stc_lab.backbones.proactive.Proactive`.
    """

    shows_fidelity: ClassVar[bool] = True
    takes_merged_tokens: ClassVar[bool] = False
    takes_bare_prompts: ClassVar[bool] = False
    frames_per_patch: ClassVar[int] = 1
    asking_changes_stream: ClassVar[bool] = False
    decides_by_itself: ClassVar[bool] = False
    tokens_per_frame: int
    grid: tuple[int, int]
    tower: VisionTower

    @classmethod
    @abstractmethod
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        """Raise ``ValueError`` for settings that cannot work; loads no weights and uses no network."""

    @classmethod
    def check_combination(cls, settings: Mapping[str, Any], cacher: Cacher, pruner: Pruner) -> None:
        """Raise ``ValueError`` where these methods make no sense together; as cheap as :meth:`check_settings`."""
        pruner.check(cls.tokens_to_prune(int(settings["tokens_per_frame"]), cacher))

    @classmethod
    def tokens_to_prune(cls, tokens_per_frame: int, cacher: Cacher) -> int:
        """Tokens of a frame that reach the pruner: merged ones where the cacher replaces the pooling by merging.

        Raises ``ValueError`` where it does and this backbone needs its own grid.
        """
        if cacher.merged_tokens is None:
            return tokens_per_frame
        if not cls.takes_merged_tokens:
            raise ValueError(f"cacher.output=merged: {cls.__name__} needs its own grid of tokens; use output=grid")
        return cacher.merged_tokens

    @abstractmethod
    def open(self, cacher: Cacher, pruner: Pruner, timer: StageTimer | None = None) -> StreamSession:
        """Start a stream. Raises ``ValueError`` when the pruner's budget does not fit this model."""

    @abstractmethod
    def preprocess(self, frames: Sequence[np.ndarray]) -> Tensor:
        """Frames, uint8 [H, W, 3] each -> normalised pixels on the device of the model."""

    @abstractmethod
    def project(self, features: Tensor) -> Tensor:
        """Tower features [F, T, C] -> visual tokens [F, tokens_per_frame, H] of the language model."""

    def project_merged(self, features: Tensor) -> Tensor:
        """Features [F, N, C] of merged tokens -> visual tokens [F, N, H]: :meth:`project` without the pooling."""
        raise ValueError(f"{type(self).__name__} needs its own grid of tokens, not {features.shape[1]} merged ones")

    @property
    @abstractmethod
    def project_flops(self) -> int:
        """FLOPs of :meth:`project` for one frame."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.parameters()).dtype

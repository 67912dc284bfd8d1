"""A Qwen-VL model as it sees frames of one size: what a session needs of a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stc_lab.vision import QwenTower

if TYPE_CHECKING:
    from stc_lab.backbones.qwen_vl.backbone import QwenVL


class FrameView:
    """Tower, grid and pixels for frames that are shown at ``size`` (height, width).

    A frame is a temporal patch, made of two video frames; ``grid`` is (rows, columns) of its visual tokens.
    """

    def __init__(self, model: QwenVL, size: tuple[int, int]) -> None:
        self.model = model
        self.size = size
        patch = model.loaded.preprocessor.patch_size
        self.tower = QwenTower(model.model.model.visual, (size[0] // patch, size[1] // patch))
        self.grid = self.tower.grid
        self.tokens_per_frame = self.tower.num_tokens

    def preprocess(self, pairs: Sequence[np.ndarray]) -> Tensor:
        """Pairs, uint8 [2, H, W, 3] each -> packed patches [F, T, 3 * 2 * patch * patch]."""
        return self.model.loaded.preprocessor(pairs, self.size, self.device, self.model.dtype)

    def project(self, features: Tensor) -> Tensor:
        """Tower features [F, G, 4 C] -> visual tokens [F, G, H], row by row: the model's merger."""
        return self.tower.merge(features)

    def project_merged(self, features: Tensor) -> Tensor:
        """Not possible: three-axis positions need the grid. Raises ``ValueError``."""
        return self.model.project_merged(features)

    @property
    def project_flops(self) -> int:
        """FLOPs of :meth:`project` for one frame."""
        return self.tower.merge_flops

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

"""What the backbones on a LLaVA-OneVision checkpoint share: loading, pixels, projector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stc_lab.backbones.checkpoints import Checkpoint
from stc_lab.backbones.llava_onevision import load_llava_onevision
from stc_lab.backbones.text_backbone import TextBackbone
from stc_lab.language import TextDecoder
from stc_lab.measure.flops import projector_flops
from stc_lab.vision import SiglipTower


class LlavaBackbone(TextBackbone):
    """``model`` is the Hugging Face model."""

    takes_merged_tokens = True

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
        return projector_flops(self.tower.num_tokens, self.tower.hidden_size, self.decoder.sizes.hidden_size)

    def _load(self, files: Checkpoint, dtype: torch.dtype) -> None:
        self.loaded = load_llava_onevision(files, dtype)
        self.model = self.loaded.model
        inner = self.model.model
        self.tower = SiglipTower(inner.vision_tower, self.model.config.vision_feature_layer)
        self.decoder = TextDecoder(inner.language_model, self.model.lm_head)
        rows, columns = self.tower.grid
        self.grid = (-(-rows // 2), -(-columns // 2))
        self.tokens_per_frame = self.grid[0] * self.grid[1]

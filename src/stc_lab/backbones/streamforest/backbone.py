"""``backbone=streamforest``: video memory as a forest of merged events (arXiv:2509.24871)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from stc_lab.backbones.checkpoints import Checkpoint
from stc_lab.backbones.streamforest.options import StreamForestOptions
from stc_lab.backbones.streamforest.positions import FramePositions
from stc_lab.backbones.streamforest.pruning import unit_pruner
from stc_lab.backbones.streamforest.tome import merge_tokens
from stc_lab.backbones.text_backbone import TextBackbone
from stc_lab.language import TextDecoder
from stc_lab.measure import StageTimer
from stc_lab.vision import SiglipTower

if TYPE_CHECKING:
    from stc_lab.backbones.streamforest.session import StreamForestSession
    from stc_lab.cachers.base import Cacher
    from stc_lab.pruners.base import Pruner


class StreamForest(TextBackbone):
    """A SigLIP tower and a Qwen2 model with the memory between them, in the space of the tower.

    ``grid`` is that of the tower; ``tokens_per_frame`` counts the tokens of a frame in the fine-grained window, and
    a pruner's budget is a share of it that holds for every part of the memory (see ``pruning.py``). The settings are
    explained in ``conf/backbone/streamforest.yaml``; ``dtype`` defaults to torch's default type.
    """

    def __init__(
        self,
        checkpoint: str = "pocket",
        *,
        revision: str | None = None,
        tokens_per_frame: int = 128,
        mode: Literal["online", "lazy"] = "online",
        now_frames: int | None = None,
        now_tokens: int | None = None,
        short_frames: int | None = None,
        split_window: int | None = None,
        event_tokens: int | None = None,
        quota: int | None = None,
        similarity_weight: float = 0.4,
        time_weight: float = 0.2,
        merge_weight: float = 0.4,
        time_message: Literal["short_online_v2", "short_online", "none"] = "short_online_v2",
        upstream_quirks: bool = False,
        max_new_tokens: int = 16,
        answer_reader: Literal["generate", "letter_logits"] = "generate",
        device: str | None = None,
        dtype: Literal["float32", "float16", "bfloat16"] | None = None,
        name: str = "streamforest",
    ) -> None:
        super().__init__()
        self.name = name
        self.options = StreamForestOptions(
            checkpoint=checkpoint,
            revision=revision,
            tokens_per_frame=tokens_per_frame,
            mode=mode,
            now_frames=now_frames,
            now_tokens=now_tokens,
            short_frames=short_frames,
            split_window=split_window,
            event_tokens=event_tokens,
            quota=quota,
            similarity_weight=similarity_weight,
            time_weight=time_weight,
            merge_weight=merge_weight,
            time_message=time_message,
            upstream_quirks=upstream_quirks,
            max_new_tokens=max_new_tokens,
            answer_reader=answer_reader,
        )
        files = self.options.all_files()
        self.memory_settings = self.options.memory_settings(files)
        self.tokens_per_frame = tokens_per_frame
        self._load_on(files, device, dtype)

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        """See :meth:`Backbone.check_settings`; a hub id that is not in the cache is only checked for its form."""
        options = StreamForestOptions.of(settings)
        options.memory_settings(options.local_files())

    @classmethod
    def check_combination(cls, settings: Mapping[str, Any], cacher: Cacher, pruner: Pruner) -> None:
        """See :meth:`Backbone.check_combination`: the memory needs the tower's grid, the pruner only tokens."""
        options = StreamForestOptions.of(settings)
        cls.tokens_to_prune(options.tokens_per_frame, cacher)
        unit_pruner(pruner, options.memory_settings(options.local_files()))

    def open(self, cacher: Cacher, pruner: Pruner, timer: StageTimer | None = None) -> StreamForestSession:
        """See :meth:`Backbone.open`."""
        from stc_lab.backbones.streamforest.session import StreamForestSession

        unit_pruner(pruner, self.memory_settings)
        return StreamForestSession(self, cacher, pruner, timer)

    def preprocess(self, frames: Sequence[np.ndarray]) -> Tensor:
        """Frames, uint8 [H, W, 3] each and of any size -> pixels [F, 3, image size, image size]."""
        return self.loaded.preprocessor(frames, self.device, self.dtype)

    def project(self, features: Tensor) -> Tensor:
        """Nothing yet: the memory keeps features of the tower, the projector runs on what a question reads of it."""
        return features

    @property
    def project_flops(self) -> int:
        """None per frame; the projector is part of a question's ``retrieve``."""
        return 0

    def project_image(self, features: Tensor, num_tokens: int | None = None) -> Tensor:
        """A single image's features [F, T, C] -> visual tokens [F, num_tokens, H]; no time, and no memory.

        ``num_tokens``: all by default; the released code draws all or 128 at random, also at inference.
        """
        placed = self.positions.add_place(features)
        return self.model.projector(merge_tokens(placed, num_tokens or features.shape[1], self.tower.num_heads))

    def _load(self, files: Checkpoint, dtype: torch.dtype) -> None:
        from stc_lab.backbones.streamforest.loading import load_streamforest

        self.loaded = load_streamforest(files, dtype)
        self.model = self.loaded.model
        self.tower = SiglipTower(self.model.vision)
        self.decoder = TextDecoder(self.model.language.model, self.model.language.lm_head)
        self.grid = self.tower.grid
        self.positions = FramePositions(self.tower.hidden_size, self.grid[0])

"""``backbone=dispider``: perception, decision and reaction in three networks (arXiv:2501.03218)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from stc_lab.backbones.checkpoints import Checkpoint
from stc_lab.backbones.dispider.clip import ClipBorders
from stc_lab.backbones.dispider.decision import Judge
from stc_lab.backbones.dispider.loading import load_dispider
from stc_lab.backbones.dispider.model import mix
from stc_lab.backbones.dispider.options import DispiderOptions, check_pruner
from stc_lab.backbones.dispider.perception import Perception
from stc_lab.backbones.dispider.reaction import Reaction
from stc_lab.backbones.text_backbone import TextBackbone
from stc_lab.language import TextDecoder
from stc_lab.measure import StageTimer
from stc_lab.vision import ClipTower

if TYPE_CHECKING:
    from stc_lab.backbones.dispider.session import DispiderSession
    from stc_lab.cachers.base import Cacher
    from stc_lab.pruners.base import Pruner


class Dispider(TextBackbone):
    """CLIP and a small language model (the compressor) turn clips into memories; a large one reads a few of them.

    ``checkpoint`` is ``pocket``, a folder, or a hub id (fetched once if a network is there). The settings are
    explained in ``conf/backbone/dispider.yaml``. Pruners work on what the large model reads of each frame; the
    class token is recomputed by cachers that protect special tokens. ``dtype`` defaults to torch's default type.
    """

    decides_by_itself = True

    def __init__(
        self,
        checkpoint: str = "pocket",
        *,
        revision: str | None = None,
        tokens_per_frame: int = 196,
        clip_frames: int | None = None,
        clips: Literal["uniform", "scenes"] = "uniform",
        scene_threshold: float = 0.85,
        min_scene_frames: int = 4,
        topk: int | None = None,
        question_place: Literal["start", "now", "offline", "summary"] = "start",
        prune_compressor: bool = False,
        asynchronous: bool = False,
        offload: bool | None = None,
        indicator_mask: bool = False,
        max_new_tokens: int = 16,
        answer_reader: Literal["generate", "letter_logits"] = "generate",
        device: str | None = None,
        dtype: Literal["float32", "float16", "bfloat16"] | None = None,
        name: str = "dispider",
    ) -> None:
        super().__init__()
        self.name = name
        self.options = DispiderOptions(
            checkpoint=checkpoint,
            revision=revision,
            tokens_per_frame=tokens_per_frame,
            clip_frames=clip_frames,
            clips=clips,
            scene_threshold=scene_threshold,
            min_scene_frames=min_scene_frames,
            topk=topk,
            question_place=question_place,
            prune_compressor=prune_compressor,
            asynchronous=asynchronous,
            offload=offload,
            indicator_mask=indicator_mask,
            max_new_tokens=max_new_tokens,
            answer_reader=answer_reader,
        )
        self._load_on(self.options.all_files(), device, dtype)

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        """See :meth:`Backbone.check_settings`; a hub id that is not in the cache is only checked for its form."""
        DispiderOptions.of(settings).local_files()

    @classmethod
    def check_combination(cls, settings: Mapping[str, Any], cacher: Cacher, pruner: Pruner) -> None:
        """See :meth:`Backbone.check_combination`: merged tokens have no neighbours that could be joined."""
        options = DispiderOptions.of(settings)
        cls.tokens_to_prune(options.tokens_per_frame, cacher)
        check_pruner(options, pruner)

    def open(self, cacher: Cacher, pruner: Pruner, timer: StageTimer | None = None) -> DispiderSession:
        """See :meth:`Backbone.open`."""
        from stc_lab.backbones.dispider.session import DispiderSession

        self.tokens_to_prune(self.tokens_per_frame, cacher)
        check_pruner(self.options, pruner)
        return DispiderSession(self, cacher, pruner, timer)

    def preprocess(self, frames: Sequence[np.ndarray]) -> Tensor:
        """Frames, uint8 [H, W, 3] each and of any size -> pixels [F, 3, image size, image size]."""
        return self.loaded.preprocessor(frames, self.device, self.dtype)

    def project(self, features: Tensor) -> Tensor:
        """Patches joined two by two, as the language model reads them; the compressor has a projector of its own."""
        return self.model.clip_projector(mix(features[:, self.tower.num_special_tokens :]))

    @property
    def project_flops(self) -> int:
        """FLOPs of :meth:`project` for one frame."""
        layers = [layer for layer in self.model.clip_projector.modules() if isinstance(layer, torch.nn.Linear)]
        return sum(2 * self.tokens_per_frame * layer.weight.numel() for layer in layers)

    @property
    def offloads(self) -> bool:
        """Whether the tokens of complete clips are kept in host memory."""
        return self.device.type != "cpu" if self.options.offload is None else self.options.offload

    def letter_id(self, letter: str) -> int:
        """Token with which an answer says ``letter``: after a space where that is a token, else alone."""
        spaced = self.loaded.token_ids(f" {letter}")
        return spaced[0] if len(spaced) == 1 else super().letter_id(letter)

    def _load(self, files: Checkpoint, dtype: torch.dtype) -> None:
        options = self.options
        self.loaded = loaded = load_dispider(files, dtype)
        self.model = model = loaded.model
        self.tower = ClipTower(model.vision, loaded.sizes.select_layer)
        self.grid, self.tokens_per_frame = loaded.sizes.grid, loaded.sizes.tokens_per_frame
        compressor = TextDecoder(model.compressor["model"], model.silent_head)
        self.decoder = TextDecoder(model.language.model, model.language.lm_head)
        self.perception = Perception(
            model,
            compressor,
            loaded.compressor_ids,
            loaded.sizes.pool_num,
            prune=options.prune_compressor,
            indicator_mask=options.indicator_mask,
        )
        self.judge = Judge(compressor, loaded.compressor_ids, options.size("topk", files))
        self.reaction = Reaction(self)
        is_cut = options.clips == "scenes"
        threshold = options.scene_threshold if is_cut else None
        self.borders = ClipBorders(options.size("clip_frames", files), threshold, options.min_scene_frames)

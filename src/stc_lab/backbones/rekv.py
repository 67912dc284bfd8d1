"""``backbone=rekv``: LLaVA-OneVision with ReKV's streaming memory (arXiv:2503.00540)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from stc_lab.backbones.base import Backbone
from stc_lab.backbones.checkpoints import Checkpoint, cached_checkpoint, fetched_checkpoint, local_checkpoint
from stc_lab.backbones.llava_onevision import REQUIRED_FILES, load_llava_onevision
from stc_lab.backbones.rekv_options import ReKVOptions, check_model, check_retrieval
from stc_lab.language import TextDecoder
from stc_lab.measure import StageTimer
from stc_lab.measure.flops import projector_flops
from stc_lab.vision import SiglipTower

if TYPE_CHECKING:
    from stc_lab.backbones.rekv_session import ReKVSession
    from stc_lab.cachers.base import Cacher
    from stc_lab.pruners.base import Pruner

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class ReKV(Backbone):
    """A LLaVA-OneVision model whose frames become blocks of keys and values, retrieved per question and layer.

    ``checkpoint`` is ``pocket``, a folder, or a hub id (fetched once if a network is there). Sizes that are
    ``None`` come from the checkpoint's ``stc_lab.json``, else they are the official 15,000 tokens and 64 blocks;
    the other settings are explained in ``conf/backbone/rekv.yaml``. ``dtype`` defaults to torch's default type.
    """

    takes_bare_prompts = True

    def __init__(
        self,
        checkpoint: str = "pocket",
        *,
        revision: str | None = None,
        tokens_per_frame: int = 196,
        n_local: int | None = None,
        topk: int | None = None,
        retrieval_chunk_size: int = 1,
        max_cached_blocks: int = 128,
        offload: bool | None = None,
        upstream_quirks: bool = False,
        max_new_tokens: int = 16,
        answer_reader: Literal["generate", "letter_logits"] = "generate",
        device: str | None = None,
        dtype: Literal["float32", "float16", "bfloat16"] | None = None,
        name: str = "rekv",
    ) -> None:
        super().__init__()
        self.name = name
        self.options = ReKVOptions(
            checkpoint=checkpoint,
            revision=revision,
            tokens_per_frame=tokens_per_frame,
            n_local=n_local,
            topk=topk,
            retrieval_chunk_size=retrieval_chunk_size,
            max_cached_blocks=max_cached_blocks,
            offload=offload,
            upstream_quirks=upstream_quirks,
            max_new_tokens=max_new_tokens,
            answer_reader=answer_reader,
        )
        files = _local(self.options) or fetched_checkpoint(checkpoint, revision, REQUIRED_FILES)
        _check_files(files, self.options)
        self.memory_settings = self.options.memory_settings(files)
        self._load(files, torch.get_default_dtype() if dtype is None else DTYPES[dtype])
        if device is not None:
            self.to(device)

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        """See :meth:`Backbone.check_settings`; a hub id that is not in the cache is only checked for its form."""
        options = _options(settings)
        files = _local(options)
        options.memory_settings(files)
        if files is not None:
            _check_files(files, options)

    @classmethod
    def check_combination(cls, settings: Mapping[str, Any], cacher: Cacher, pruner: Pruner) -> None:
        """See :meth:`Backbone.check_combination`: the retrieved blocks must fit the window."""
        options = _options(settings)
        check_retrieval(options.memory_settings(_local(options)), pruner.num_kept(options.tokens_per_frame))

    def open(self, cacher: Cacher, pruner: Pruner, timer: StageTimer | None = None) -> ReKVSession:
        """See :meth:`Backbone.open`."""
        from stc_lab.backbones.rekv_session import ReKVSession

        pruner.check(self.tokens_per_frame)
        check_retrieval(self.memory_settings, pruner.num_kept(self.tokens_per_frame))
        return ReKVSession(self, cacher, pruner, timer)

    def preprocess(self, frames: Sequence[np.ndarray]) -> Tensor:
        """Frames, uint8 [H, W, 3] each and of any size -> pixels [F, 3, image size, image size]."""
        return self.loaded.preprocessor(frames, self.device, self.dtype)

    def project(self, features: Tensor) -> Tensor:
        """Projector, then bilinear pooling to half the rows and columns (27x27 -> 14x14); no newline token."""
        return self.model.model.apply_pooling(self.model.model.multi_modal_projector(features))

    @property
    def project_flops(self) -> int:
        """FLOPs of :meth:`project` for one frame."""
        return projector_flops(self.tower.num_tokens, self.tower.hidden_size, self.decoder.config.hidden_size)

    def letter_id(self, letter: str) -> int:
        """Token with which an answer says ``letter``. Raises ``ValueError`` if the tokenizer splits it."""
        ids = self.loaded.token_ids(letter)
        if len(ids) != 1:
            raise ValueError(f"backbone.checkpoint={self.options.checkpoint}: its tokenizer has no token '{letter}'")
        return ids[0]

    def extra_repr(self) -> str:
        return repr(self.options)

    def _load(self, files: Checkpoint, dtype: torch.dtype) -> None:
        self.loaded = load_llava_onevision(files, dtype)
        self.model = self.loaded.model
        inner = self.model.model
        self.tower = SiglipTower(inner.vision_tower, self.model.config.vision_feature_layer)
        self.decoder = TextDecoder(inner.language_model, self.model.lm_head)
        rows, columns = self.tower.grid
        self.grid = (-(-rows // 2), -(-columns // 2))
        self.tokens_per_frame = self.grid[0] * self.grid[1]


def _options(settings: Mapping[str, Any]) -> ReKVOptions:
    fields = ReKVOptions.__dataclass_fields__
    return ReKVOptions(**{key: value for key, value in settings.items() if key in fields})


def _local(options: ReKVOptions) -> Checkpoint | None:
    """The checkpoint if its files are on this machine."""
    name = options.checkpoint
    return local_checkpoint(name, "rekv", REQUIRED_FILES) or cached_checkpoint(name, options.revision, REQUIRED_FILES)


def _check_files(files: Checkpoint, options: ReKVOptions) -> None:
    check_model(files.json("config.json"), options)

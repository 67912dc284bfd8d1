"""A backbone that answers with text of a causal language model: what its sessions share."""

from __future__ import annotations

from abc import abstractmethod

import torch

from stc_lab.backbones.base import Backbone
from stc_lab.backbones.checkpoints import Checkpoint
from stc_lab.backbones.hf_loading import LoadedText
from stc_lab.backbones.options import BackboneOptions
from stc_lab.language import TextDecoder

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class TextBackbone(Backbone):
    """``decoder`` runs the language model, ``loaded`` holds its tokenizer, ``options`` the user's choices."""

    decoder: TextDecoder
    loaded: LoadedText
    options: BackboneOptions

    def letter_id(self, letter: str) -> int:
        """Token with which an answer says ``letter``. Raises ``ValueError`` if the tokenizer splits it."""
        ids = self.loaded.token_ids(letter)
        if len(ids) != 1:
            raise ValueError(f"backbone.checkpoint={self.options.checkpoint}: its tokenizer has no token '{letter}'")
        return ids[0]

    def extra_repr(self) -> str:
        return repr(self.options)

    @abstractmethod
    def _load(self, files: Checkpoint, dtype: torch.dtype) -> None:
        """Set tower, decoder and all else that comes from a checkpoint."""

    def _load_on(self, files: Checkpoint, device: str | None, dtype: str | None) -> None:
        """:meth:`_load` in the type named ``dtype`` (default: that of torch), then move to ``device`` if given."""
        self._load(files, torch.get_default_dtype() if dtype is None else DTYPES[dtype])
        if device is not None:
            self.to(device)

"""A backbone that answers with text of a causal language model: what its sessions share."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from stc_lab.backbones.base import Backbone
from stc_lab.language import TextDecoder


class TextOptions(Protocol):
    """Settings that every such backbone has."""

    checkpoint: str
    max_new_tokens: int
    answer_reader: str


class LoadedText(Protocol):
    """A loaded checkpoint as far as text is concerned; ``stop_ids`` end an answer."""

    stop_ids: frozenset[int]

    def token_ids(self, text: str) -> list[int]: ...

    def text(self, token_ids: Collection[int]) -> str: ...


class TextBackbone(Backbone):
    """``decoder`` runs the language model, ``loaded`` holds its tokenizer, ``options`` the user's choices."""

    decoder: TextDecoder
    loaded: LoadedText
    options: TextOptions

    def letter_id(self, letter: str) -> int:
        """Token with which an answer says ``letter``. Raises ``ValueError`` if the tokenizer splits it."""
        ids = self.loaded.token_ids(letter)
        if len(ids) != 1:
            raise ValueError(f"backbone.checkpoint={self.options.checkpoint}: its tokenizer has no token '{letter}'")
        return ids[0]

    def extra_repr(self) -> str:
        return repr(self.options)

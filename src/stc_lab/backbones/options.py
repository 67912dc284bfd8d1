"""Settings that every backbone has, checked without loading anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from stc_lab.backbones.answers import READERS
from stc_lab.backbones.checkpoints import Checkpoint, fetched_checkpoint, stored_checkpoint


@dataclass(frozen=True, kw_only=True)
class BackboneOptions:
    """The user's choices. A leaf adds its own, names the backbone and the files that its checkpoints must hold.

    ``sizes``: fields that must be at least 1 where they are given. Raises ``ValueError`` naming the field for a value
    that cannot work.
    """

    checkpoint: str = "pocket"
    revision: str | None = None
    max_new_tokens: int = 16
    answer_reader: str = "generate"

    name: ClassVar[str]
    required_files: ClassVar[tuple[str, ...]] = ("config.json", "tokenizer.json")
    readers: ClassVar[tuple[str, ...]] = READERS
    sizes: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for field in ("max_new_tokens", *self.sizes):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"backbone.{field}={value}: must be at least 1")
        self._require_choice("answer_reader", self.readers)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """From the settings of a backbone, others than these left out."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in settings.items() if key in known})

    def local_files(self) -> Checkpoint | None:
        """The checkpoint if its files are on this machine. Raises ``ValueError`` where they do not fit."""
        files = stored_checkpoint(self.checkpoint, self.revision, self.name, self.required_files)
        if files is not None:
            self.check_files(files)
        return files

    def all_files(self) -> Checkpoint:
        """The checkpoint, fetched if need be. Raises ``ValueError`` where it cannot be, or does not fit."""
        files = self.local_files()
        if files is None:
            files = fetched_checkpoint(self.checkpoint, self.revision, self.required_files)
            self.check_files(files)
        return files

    def check_files(self, files: Checkpoint) -> None:
        """Raise ``ValueError`` when a checkpoint is of another kind, or does not fit these settings."""

    def _require_choice(self, field: str, valid: tuple[str, ...]) -> None:
        if getattr(self, field) not in valid:
            raise ValueError(f"backbone.{field}={getattr(self, field)}: must be one of {', '.join(valid)}")

"""Methods that hand fewer visual tokens per frame to the language model. One method per file."""

from __future__ import annotations

from stc_lab.pruners.base import FrameContext, Pruner
from stc_lab.pruners.none import NoPruner

__all__ = ["FrameContext", "NoPruner", "Pruner"]

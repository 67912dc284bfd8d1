"""Methods that hand fewer visual tokens per frame to the language model. One method per file."""

from __future__ import annotations

from stc_lab.pruners.base import FrameContext, Pruner, ScorePruner
from stc_lab.pruners.none import NoPruner
from stc_lab.pruners.random import RandomPruner
from stc_lab.pruners.stc import STCPruner
from stc_lab.pruners.stc_gaussian import STCGaussianPruner
from stc_lab.pruners.uniform import UniformPruner

__all__ = [
    "FrameContext",
    "NoPruner",
    "Pruner",
    "RandomPruner",
    "STCGaussianPruner",
    "STCPruner",
    "ScorePruner",
    "UniformPruner",
]

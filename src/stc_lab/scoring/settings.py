"""Types of the settings in ``conf/score.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING


@dataclass
class ScoreSettings:
    """Which predictions are scored, and what is known about them."""

    benchmark: str = MISSING
    predictions: str = MISSING
    annotations: str | None = None
    model: str | None = None
    unwrap_lists: bool = False
    name: str | None = None
    backbone: str | None = None
    cacher: str | None = None
    pruner: str | None = None
    tokens_per_frame: int | None = None
    paper: str | None = None
    seed: int = 0
    paths: Any = None

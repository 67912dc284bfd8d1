"""Types of the settings in ``conf/endless.yaml``, and their mistakes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from stc_lab.bench.endless.clip import CLIP_FRAMES
from stc_lab.bench.endless.run import check_length
from stc_lab.bench.settings import chosen


@dataclass
class EndlessSettings:
    """``models``: the settings of every backbone, by name; ``backbones``: those to run, or ``all``."""

    backbones: Any = "all"
    num_frames: int = 2000
    fps: float = 2.0
    device: str = "auto"
    dtype: str | None = None
    num_threads: int | None = None
    models: Any = None
    cacher: Any = None
    pruner: Any = None
    dataset: Any = None
    paths: Any = None


def validate(cfg: DictConfig) -> list[str]:
    """Names of the backbones to run. Raises ``ValueError`` naming the setting, its value and what is valid."""
    check_length(cfg.num_frames, CLIP_FRAMES)
    for field in ("fps", "num_threads"):
        if cfg[field] is not None and cfg[field] <= 0:
            raise ValueError(f"{field}={cfg[field]}: must be above 0")
    return chosen("backbones", cfg.backbones, tuple(cfg.models))

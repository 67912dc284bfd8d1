"""Types of the settings in ``conf/bench.yaml``, and their mistakes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from omegaconf import DictConfig

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class VisionSettings:
    """The tower: layers that are run, frames of a repeat, repeats, and the cachers by label, or all there are."""

    num_layers: int | None = 2
    num_frames: int = 4
    repeats: int = 6
    all_methods: bool = True
    cachers: dict[str, Any] = field(default_factory=dict)


@dataclass
class PrefillSettings:
    """The decoder: layers that are run, length of the stream, tokens of a full frame and of a pruned one, pruners."""

    num_layers: int | None = 1
    num_frames: int = 100
    tokens_per_frame: int = 196
    budget: int = 64
    all_methods: bool = True
    pruners: dict[str, Any] = field(default_factory=dict)


@dataclass
class StepSettings:
    """The memories of other backbones: repeats of all methods in turn, seconds of stream that lie behind."""

    repeats: int = 4
    stream_s: int = 60


@dataclass
class BenchSettings:
    """The whole benchmark; ``backbones``: names, or ``all``."""

    seed: int = 0
    device: str = "auto"
    dtype: str | None = None
    num_threads: int | None = None
    backbones: Any = "rekv"
    sizes: list[str] = field(default_factory=list)
    limit_s: float | None = None
    vision: VisionSettings = field(default_factory=VisionSettings)
    prefill: PrefillSettings = field(default_factory=PrefillSettings)
    steps: StepSettings = field(default_factory=StepSettings)
    paths: Any = None


def validate(cfg: DictConfig, sizes: tuple[str, ...]) -> None:
    """Raise ``ValueError`` naming the setting, its value and what is valid."""
    _one_of("device", [cfg.device], DEVICES)
    _one_of("sizes", cfg.sizes, sizes)
    counts = {"num_threads": cfg.num_threads, "limit_s": cfg.limit_s}
    for part in ("vision", "prefill", "steps"):
        keys = [key for key in cfg[part] if key.startswith(("num_", "repeats", "stream_s"))]
        counts |= {f"{part}.{key}": cfg[part][key] for key in keys}
    for name, value in counts.items():
        if value is not None and value <= 0:
            raise ValueError(f"{name}={value}: must be above 0")
    side = round(cfg.prefill.tokens_per_frame**0.5)
    if side * side != cfg.prefill.tokens_per_frame:
        raise ValueError(f"prefill.tokens_per_frame={cfg.prefill.tokens_per_frame}: must be a square number")


def torch_device(name: str) -> torch.device:
    """The device that is meant; raises ``ValueError`` where this machine has none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if name in available and not available[name]():
        raise ValueError(f"device={name}: not available on this machine; use cpu or auto")
    return torch.device(name)


def torch_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """The type of the weights that is meant; ``None``: the one that models are run in on such a device.

    Raises ``ValueError`` for another name.
    """
    if name is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    _one_of("dtype", [name], DTYPES)
    return getattr(torch, name)


def _one_of(name: str, values: list[str], choices: tuple[str, ...]) -> None:
    wrong = [value for value in values if value not in choices]
    if wrong or not values:
        raise ValueError(f"{name}={', '.join(wrong) or '[]'}: must be among {', '.join(choices)}")


def chosen(name: str, value: Any, choices: tuple[str, ...]) -> list[str]:
    """Names among ``choices``: one, a list, or ``all``. Raises ``ValueError`` naming the setting otherwise."""
    values = [value] if isinstance(value, str) else list(value or ())
    if values == ["all"]:
        return list(choices)
    _one_of(name, values, (*choices, "all"))
    return list(choices) if "all" in values else values

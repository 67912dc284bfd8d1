"""What the tests of pruners share: methods from their YAML files, and streams in calls."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from stc_lab.config import build, conf_dir
from stc_lab.pruners import FrameContext, Pruner
from stc_lab.types import VisualTokens

METHODS = sorted(path.stem for path in (conf_dir() / "pruner").glob("*.yaml"))
CACHERS = sorted(path.stem for path in (conf_dir() / "cacher").glob("*.yaml"))
TOKENS = 196


@cache
def make(method: str, group: str = "pruner", **settings: Any) -> Any:
    """A method as a run builds it, from its YAML file with some settings changed."""
    node = OmegaConf.load(conf_dir() / f"{group}/{method}.yaml")
    return build(OmegaConf.merge({"seed": 0}, {group: OmegaConf.merge(node, settings)})[group])


def contexts(frames: Sequence[VisualTokens]) -> list[FrameContext]:
    """What a tower might say of ``frames``: made of their tokens, so that equal frames have equal contexts."""
    return [
        FrameContext(
            frame.grid,
            frame.timestamp_s,
            attention_received=frame.tokens[:, 0].float().exp(),
            keys=frame.tokens.unflatten(1, (4, -1)),
        )
        for frame in frames
    ]


def compress(pruner: Pruner, frames: Sequence[VisualTokens], state: Any = None) -> list[VisualTokens]:
    """One call; without ``state`` a stream of its own."""
    return pruner.compress(frames, pruner.new_state() if state is None else state, contexts(frames))


def positions(reduced: Sequence[VisualTokens]) -> list[Tensor]:
    return [frame.positions for frame in reduced]


def in_calls(pruner: Pruner, frames: Sequence[VisualTokens], size: int) -> list[Tensor]:
    """Positions kept when frames come ``size`` at a time."""
    state = pruner.new_state()
    calls = [frames[start : start + size] for start in range(0, len(frames), size)]
    return [kept for call in calls for kept in positions(compress(pruner, call, state))]


def same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))

"""Random tokens: the baseline that a method has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stc_lab.pruners.base import FrameContext, FramePruner


@dataclass
class RandomState:
    """Frames seen in this stream."""

    num_frames: int = 0


@dataclass(frozen=True, kw_only=True)
class RandomPruner(FramePruner):
    """Keeps a fresh random set in every frame; ``seed`` and the frame's number in the stream decide which."""

    seed: int = 0
    name: str = "random"

    def new_state(self) -> RandomState:
        return RandomState()

    def select(self, tokens: Tensor, state: RandomState, context: FrameContext) -> Tensor:
        generator = np.random.default_rng([self.seed, state.num_frames])
        state.num_frames += 1
        kept = generator.choice(len(tokens), self.num_kept(len(tokens)), replace=False)
        return torch.from_numpy(np.sort(kept)).to(tokens.device)

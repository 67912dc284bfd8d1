"""VidCom2: frames that stand out get more tokens, and tokens that stand out are kept."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stc_lab.pruners.base import ScorePruner, apportion

KERNEL_VARIANCES = (1 / 8, 1 / 4, 1 / 2, 1, 2)


@dataclass(frozen=True, kw_only=True)
class VidCom2Pruner(ScorePruner):
    """VidCom2 (arXiv 2505.14454; github xuyang-liu16/VidCom2), over windows of a stream in place of a whole video.

    In the half of the channels with the lowest variance over the window, tokens are scaled to unit length and
    compared with the mean of the window and the mean of their frame by a sum of Gaussian kernels; the least close
    are kept. A frame whose tokens are far from the window's mean gets a larger share: ``1 + p - mean(p)`` times the
    even one, where p is a softmax over the frames at ``temperature``.

    ``window_frames``: frames that are looked at together (the paper: all frames of a video); their total is exact,
    each keeping at least one token. ``exact_total=False`` rounds each frame's share by itself, as released, so that
    the total is met only about.
    """

    window_frames: int = 8
    temperature: float = 0.01
    exact_total: bool = True
    name: str = "vidcom2"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0:
            raise ValueError(f"pruner.temperature={self.temperature}: must be above 0")

    def max_kept(self, num_tokens: int) -> int:
        alone = self.num_kept(num_tokens)
        return alone if self.window_frames == 1 else num_tokens

    def answer_settings(self) -> dict[str, Any]:
        """Without the exact total, a share that does not give a whole number of tokens has its own results."""
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        return settings if self.exact_total else settings | {"share": self.keep_ratio}

    def score(self, tokens: Tensor, state: None) -> Tensor:
        return self.plan(tokens, state)[0]

    def plan(self, tokens: Tensor, state: None) -> tuple[Tensor, list[int]]:
        to_window, to_frame = closeness(tokens)
        num_frames, num_tokens = to_window.shape
        # Frames far from the mean of the window get a larger share, tokens far from both means are kept.
        quotas = self.frame_scales(to_window) * num_tokens
        if self.exact_total:
            budgets = apportion(quotas.tolist(), num_frames * self.num_kept(num_tokens), num_tokens)
        else:
            budgets = quotas.round().long().clamp_min(1).tolist()
        return -(to_window + to_frame), budgets

    def frame_scales(self, to_window: Tensor) -> Tensor:
        """Share of its tokens [F] that each frame should keep, from its closeness [F, T] to the window."""
        uniqueness = -to_window.mean(1)
        weight = torch.softmax((uniqueness - uniqueness.max()) / self.temperature, dim=0)
        return (self._share(to_window.shape[1]) * (1 + weight - weight.mean())).clamp_max(1.0)

    def flops(self, num_tokens: int, dim: int) -> int:
        """Variance of all channels; in half of them length, and distance to two means."""
        return 2 * num_tokens * dim + 3 * num_tokens * dim

    def _share(self, num_tokens: int) -> float:
        if not self.exact_total and self.keep_ratio is not None:
            return self.keep_ratio
        return self.num_kept(num_tokens) / num_tokens


def closeness(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Closeness [F, T] of ``tokens`` [F, T, D] to the mean of the window, and to the mean of their frame."""
    unit = normalize(tokens.index_select(-1, quiet_channels(tokens)), dim=-1)
    return gaussian_closeness(unit, unit.mean((0, 1))), gaussian_closeness(unit, unit.mean(1, keepdim=True))


def quiet_channels(tokens: Tensor) -> Tensor:
    """The half of the channels of ``tokens`` [F, T, D] that vary least over all of them, quietest first."""
    flat = tokens.flatten(0, 1)
    variance = (flat - flat.mean(0)).square_().mean(0)  # on a CPU several times faster than var(0)
    return variance.argsort(stable=True)[: tokens.shape[-1] // 2]


def gaussian_closeness(unit: Tensor, anchor: Tensor) -> Tensor:
    """Sum over the kernels of exp(-d^2 / 2a) [F, T], with d the distance of ``unit`` [F, T, D] to ``anchor``."""
    distance = (unit - anchor).square().sum(-1, keepdim=True)
    variances = torch.tensor(KERNEL_VARIANCES, dtype=unit.dtype, device=unit.device)
    return torch.exp(-distance / (2 * variances)).sum(-1)

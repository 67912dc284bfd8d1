"""What the lab asks of a vision tower: embeddings, a list of pre-norm blocks, a final step; and attention in a block.

A cacher never sees a model class. It sees blocks whose steps can be run for all tokens or for some of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
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

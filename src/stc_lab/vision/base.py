"""What the lab asks of a vision tower: embeddings, a list of pre-norm blocks, a final step.

A cacher never sees a model class. It sees blocks whose steps can be run for all tokens or for some of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


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

        ``query`` [F, Q, C], ``key`` [F, T, C]; ``weights`` [F, T] as in :meth:`attend_weighted`. It costs memory and is
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
        return values[:, self.num_special_tokens :]

    @property
    def num_tokens(self) -> int:
        """Tokens per frame, special tokens included."""
        return self.facts.num_tokens

    @property
    def num_special_tokens(self) -> int:
        """Leading tokens that are no patches (1 for a class token)."""
        return self.facts.num_special_tokens

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the patches."""
        return self.facts.grid

    @property
    def hidden_size(self) -> int:
        """Width of the tokens."""
        return self.facts.hidden_size

    @property
    def mlp_size(self) -> int:
        """Inner width of the feed-forward part."""
        return self.facts.mlp_size

    @property
    def num_heads(self) -> int:
        """Attention heads."""
        return self.facts.num_heads

    @property
    def num_layers(self) -> int:
        """Blocks that are run."""
        return self.facts.num_layers

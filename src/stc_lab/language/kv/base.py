"""What a key-value store must offer to the text decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from stc_lab.language.rotary import Rotary


@dataclass(frozen=True)
class DecoderShape:
    """The facts about a decoder that its stores need; ``scale`` multiplies the attention scores."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    rotary: Rotary


@dataclass(frozen=True)
class Step:
    """One pass through the decoder.

    ``lengths``: tokens of each piece of the pass, in order; a piece is what the store treats as a unit (a
    frame) and sees only itself and what came before. ``positions`` [T], or [3, T] with three axes: explicit
    positions of the new tokens, for stores that take them; ``None``: the store counts on.
    """

    lengths: tuple[int, ...]
    positions: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """New tokens of the pass."""
        return sum(self.lengths)


class KVStore(Protocol):
    """Memory of a decoder for one stream: holds keys and values of all layers and computes the attention.

    Keys and queries arrive un-rotated, so that each store decides at which positions they stand.
    """

    def begin(self, step: Step) -> None:
        """Called once per pass, before the first layer. Raises ``ValueError`` for a step it cannot take."""
        ...

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Remember ``keys`` and ``values`` [T, Hkv, d]; return what ``queries`` [T, Hq, d] read, [T, Hq * d]."""
        ...


def tensor_bytes(*tensors: Tensor | None) -> int:
    """Bytes of the elements of ``tensors`` (of a view: only what it shows)."""
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)

"""A view of a tower in which one block notes what enters it; the computation is the same, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from stc_lab.vision.base import Block, VisionTower


@dataclass
class Note:
    """What entered the block for one frame: ``x`` [1, T, C], and ``weights`` [1, T] where its tokens were weighed."""

    x: Tensor
    weights: Tensor | None = None


class TapBlock(Block):
    """``block``, with a note per frame of what it is run on."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self._notes: list[Note] = []

    def take(self) -> list[Note]:
        """The notes since the last call, in the order in which frames came."""
        notes, self._notes = self._notes, []
        return notes

    def norm1(self, x: Tensor) -> Tensor:
        self._notes += [Note(frame) for frame in x.split(1)]
        return self.block.norm1(x)

    def __call__(self, x: Tensor) -> Tensor:
        self._notes += [Note(frame) for frame in x.split(1)]
        return self.block(x)

    def attend_weighted(self, query: Tensor, key: Tensor, value: Tensor, weights: Tensor) -> Tensor:
        for note, frame in zip(self._notes[-len(weights) :], weights.split(1), strict=True):
            note.weights = frame
        return self.block.attend_weighted(query, key, value, weights)

    def query(self, normed: Tensor) -> Tensor:
        return self.block.query(normed)

    def key(self, normed: Tensor) -> Tensor:
        return self.block.key(normed)

    def value(self, normed: Tensor) -> Tensor:
        return self.block.value(normed)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self.block.attend(query, key, value)

    def project(self, mixed: Tensor) -> Tensor:
        return self.block.project(mixed)

    def norm2(self, x: Tensor) -> Tensor:
        return self.block.norm2(x)

    def mlp(self, normed: Tensor) -> Tensor:
        return self.block.mlp(normed)


class TappedTower(VisionTower):
    """``inner`` with a tap in block ``layer`` (negative: from the last one)."""

    def __init__(self, inner: VisionTower, layer: int) -> None:
        self.inner = inner
        self.facts = inner.facts
        self.can_merge = inner.can_merge
        self.tap = TapBlock(inner.blocks[layer])
        self.blocks = [self.tap if block is inner.blocks[layer] else block for block in inner.blocks]

    def embed(self, pixels: Tensor) -> Tensor:
        return self.inner.embed(pixels)

    def finish(self, x: Tensor) -> Tensor:
        return self.inner.finish(x)

    def on_grid(self, values: Tensor) -> Tensor:
        return self.inner.on_grid(values)

"""Text and clips in one sequence: token ids and three-axis positions, pruned tokens included in the count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stc_lab.types import VisualTokens


@dataclass(frozen=True)
class Clip:
    """Temporal patches of one video segment, in time order, each perhaps pruned."""

    frames: tuple[VisualTokens, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens that are left."""
        return sum(frame.num_tokens for frame in self.frames)

    @property
    def num_full(self) -> int:
        """Tokens before pruning."""
        return sum(_full(frame) for frame in self.frames)

    @property
    def tokens(self) -> Tensor:
        """Embeddings [T, H]."""
        return torch.cat([frame.tokens for frame in self.frames])

    def shape_only(self) -> Clip:
        """The same without its embeddings: enough for positions."""
        nothing = [frame.tokens.new_empty(frame.num_tokens, 0) for frame in self.frames]
        bare = [
            replace(frame, tokens=empty, positions=frame.positions.cpu())
            for frame, empty in zip(self.frames, nothing, strict=True)
        ]
        return Clip(tuple(bare))


@dataclass(frozen=True)
class Axes:
    """How clips are placed. ``time_step``: positions between temporal patches; ``is_flat``: one after another, like
    text, as if there were no rows and columns."""

    time_step: float = 1.0
    is_flat: bool = False

    def text(self, start: float, num_tokens: int) -> tuple[Tensor, float]:
        """Positions [3, T] of text from ``start`` on, and where the next token stands."""
        positions = torch.arange(num_tokens, dtype=torch.double) + start
        return positions.expand(3, -1), start + num_tokens

    def clip(self, start: float, clip: Clip) -> tuple[Tensor, float]:
        """Positions [3, T] of what is left of a clip, and where the next token stands.

        Pruned tokens keep their places empty, and the text after the clip stands where it stood without pruning:
        after the furthest position of the full clip on any axis (arXiv:2409.12191, section 2.1).
        """
        if self.is_flat:
            return self._flat(start, clip)
        parts = [self._cube(index, frame) for index, frame in enumerate(clip.frames)]
        rows = max(frame.grid[0] for frame in clip.frames)
        columns = max(frame.grid[1] for frame in clip.frames)
        last = max((len(clip.frames) - 1) * self.time_step, rows - 1, columns - 1)
        return torch.cat(parts, dim=1) + start, start + last + 1

    def _cube(self, index: int, frame: VisualTokens) -> Tensor:
        positions, columns = frame.positions.cpu(), frame.grid[1]
        time = torch.full_like(positions, index, dtype=torch.double) * self.time_step
        return torch.stack((time, positions // columns, positions % columns)).double()

    def _flat(self, start: float, clip: Clip) -> tuple[Tensor, float]:
        parts, offset = [], start
        for frame in clip.frames:
            parts.append(frame.positions.cpu().double() + offset)
            offset += _full(frame)
        return torch.cat(parts).expand(3, -1), offset


Piece = Sequence[int] | Clip


def _full(frame: VisualTokens) -> int:
    return frame.grid[0] * frame.grid[1]

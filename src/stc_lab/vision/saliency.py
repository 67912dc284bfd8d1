"""Attention and keys of a tower's layer, for methods that ask which tokens matter to the tower, under any cacher.

The cacher runs a view of the tower in which one block records what enters it; the computation is the same, bit for
bit. Afterwards, and only for frames that are asked about, the layer's projections are computed from that once more, so
that their cost can be told apart.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from stc_lab.vision.tower import Block, VisionTower

NEEDS = frozenset({"attention_received", "keys"})


class Trace(Protocol):
    """What a cacher says of a frame (see ``stc_lab.cachers.base.FrameTrace``)."""

    num_recomputed: list[int]
    groups: Sequence[Tensor] | None


@dataclass
class BlockInput:
    """What entered a block for one frame: ``x`` [1, T, C], and ``weights`` [1, T] where its tokens were weighed."""

    x: Tensor
    weights: Tensor | None = None


class RecordingBlock:
    """``block``, and the ``inputs`` it was run on, one per frame; every step that is not written here is its own."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.inputs: list[BlockInput] = []

    def __getattr__(self, step: str) -> Any:
        return getattr(self.block, step)

    # A layer is run as a whole or step by step, and then ``norm1`` is the first step.
    def __call__(self, x: Tensor) -> Tensor:
        self.inputs += [BlockInput(frame) for frame in x.split(1)]
        return self.block(x)

    def norm1(self, x: Tensor) -> Tensor:
        self.inputs += [BlockInput(frame) for frame in x.split(1)]
        return self.block.norm1(x)

    def attend_weighted(self, query: Tensor, key: Tensor, value: Tensor, weights: Tensor) -> Tensor:
        for entered, frame in zip(self.inputs[-len(weights) :], weights.split(1), strict=True):
            entered.weights = frame
        return self.block.attend_weighted(query, key, value, weights)


def record_block_input(tower: VisionTower, layer: int = -1) -> tuple[VisionTower, list[BlockInput]]:
    """A view of ``tower``, and the list that fills with what enters its block ``layer`` (negative: from the last one)
    for each frame that runs through the view. The tower itself stays as it is."""
    recording = RecordingBlock(tower.blocks[layer])
    view = copy.copy(tower)
    view.blocks = [recording if block is tower.blocks[layer] else block for block in tower.blocks]
    return view, recording.inputs


@dataclass(frozen=True)
class SaliencyReading:
    """Of the N visual tokens of a frame: ``attention_received`` [N] and ``keys`` [N, heads, head size], where asked
    for, as ``stc_lab.pruners.FrameContext`` describes them; and the ``flops`` that it took."""

    attention_received: Tensor | None = None
    keys: Tensor | None = None
    flops: int = 0


class Saliency:
    """What entered ``block`` of ``tower`` for one frame, until somebody asks.

    ``groups`` [T0]: the token entering the block that each original token is part of, ``None`` where nothing was
    merged; ``final`` [T0]: the same for merged tokens that are handed on in place of the grid. A copy, deep or not,
    shares tower and tensors, which nobody writes to.
    """

    def __init__(
        self,
        tower: VisionTower,
        block: Block,
        needs: frozenset[str],
        entered: BlockInput,
        groups: Tensor | None = None,
        final: Tensor | None = None,
    ) -> None:
        self._tower, self._block, self._needs, self._entered = tower, block, needs, entered
        self._groups, self._final = groups, final
        self._measured: dict[str, Tensor] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Saliency:
        return copy.copy(self)

    def read(self, grid: tuple[int, int]) -> SaliencyReading:
        """Values for visual tokens on ``grid`` (rows, columns), pooled bilinearly as LLaVA-OneVision pools features.

        A second reading, of a frame whose features are reused, measures nothing and costs nothing.
        """
        flops = 0 if self._measured else self._flops()
        self._measured = self._measured or self._measure()
        return SaliencyReading(**{name: self._on(grid, value) for name, value in self._measured.items()}, flops=flops)

    def _measure(self) -> dict[str, Tensor]:
        """What is needed, of all original tokens: [T0, ...]."""
        block, normed = self._block, self._block.norm1(self._entered.x)
        key, values = block.key(normed), {}
        if "keys" in self._needs:
            values["keys"] = block.heads(key)[0]
        if "attention_received" in self._needs:
            values["attention_received"] = self._attention_received(normed, key)
        # A merged token speaks for each original token in it.
        return {name: (v if self._groups is None else v[self._groups]).float() for name, v in values.items()}

    def _attention_received(self, normed: Tensor, key: Tensor) -> Tensor:
        """By each original token that a token of the layer stands for, summed over heads: [T]."""
        # From the class token where there is one, else the mean over all tokens, as VisionZip (section 3) has it.
        has_class_token = self._tower.facts.num_special_tokens > 0
        query, sizes = self._block.query(normed[:, :1] if has_class_token else normed), self._sizes()
        weights = self._block.attention_weights(query, key, self._entered.weights)[0]
        per_head = weights[:, 0] if has_class_token else sizes @ weights / sizes.sum()
        return per_head.sum(0) / sizes

    def _sizes(self) -> Tensor:
        """Original tokens that each token of the layer stands for: [T]."""
        num_tokens = self._entered.x.shape[1]
        if self._groups is None:
            return torch.ones(num_tokens, device=self._entered.x.device)
        return torch.bincount(self._groups, minlength=num_tokens).float()

    def _on(self, grid: tuple[int, int], values: Tensor) -> Tensor:
        """From the original tokens [T0, ...] to the visual tokens [N, ...]."""
        # Without special tokens and row by row; then as the features went: merged, or pooled.
        flat = self._tower.on_grid(values[None])[0].reshape(-1, values[0].numel())
        if self._final is not None:
            flat = self._gathered(flat, grid[0] * grid[1], is_sum=values.dim() == 1)
        elif grid != self._tower.facts.grid:
            planes = flat.T.unflatten(1, self._tower.facts.grid)[None]
            flat = interpolate(planes, size=grid, mode="bilinear")[0].flatten(1).T
        return flat.reshape(-1, *values.shape[1:])

    def _gathered(self, flat: Tensor, num_tokens: int, is_sum: bool) -> Tensor:
        """Per merged token the attention of all its patches, or the mean of their keys."""
        groups = self._final[self._tower.facts.num_special_tokens :]
        is_part = (groups == torch.arange(num_tokens, device=flat.device)[:, None]).to(flat)
        return is_part @ flat if is_sum else is_part @ flat / is_part.sum(1, keepdim=True)

    def _flops(self) -> int:
        """Key projection; for attention the query projection and the products of all pairs as well."""
        facts = self._tower.facts
        num_tokens, width = facts.patches_per_token * self._entered.x.shape[1], facts.hidden_size
        if "attention_received" not in self._needs:
            return 2 * num_tokens * width**2
        num_queries = 1 if facts.num_special_tokens else num_tokens
        return 2 * (num_tokens + num_queries) * width**2 + 2 * num_queries * num_tokens * width


class TokenSaliency:
    """Of one stream. ``layer`` counts the blocks that are run; VisionZip reads the last one.

    Use: run the cacher on ``view(tower)``, ``collect`` with its traces, then read what belongs to the frames; so again
    for each run of the tower. ``last`` is that of the newest frame that was run. A copy goes on apart from this one.
    Raises ``ValueError`` for a need it does not know.
    """

    def __init__(self, needs: Collection[str], layer: int = -1) -> None:
        unknown = sorted(set(needs) - NEEDS)
        if unknown:
            raise ValueError(f"needs={unknown}: a tower can be asked for {', '.join(sorted(NEEDS))}")
        self._needs = frozenset(needs)
        self._layer = layer
        self._tower: VisionTower | None = None
        self._inputs: list[BlockInput] = []
        self.last: Saliency | None = None

    def view(self, tower: VisionTower) -> VisionTower:
        """``tower`` with a recording block in it; the tower itself where nothing is needed."""
        if not self._needs:
            return tower
        self._tower = tower
        view, self._inputs = record_block_input(tower, self._layer)
        return view

    def collect(self, traces: Sequence[Trace], merged: bool = False) -> list[Saliency | None]:
        """One per frame that went through the view; a frame that was not run has that of the frame it reuses.

        ``merged``: the cacher handed on merged tokens in place of the grid. Without needs: ``None`` for each.
        """
        if not self._needs:
            return [None] * len(traces)
        tower, inputs, self._tower, self._inputs = self._tower, self._inputs, None, []
        was_run = [len(inputs) == len(traces) or any(trace.num_recomputed) for trace in traces]
        assert sum(was_run) == len(inputs), "every frame passes the recording block once, or is not run at all"
        # A frame without an input of its own is a repetition of the newest one that was run.
        waiting, found = iter(inputs), []
        for trace, ran in zip(traces, was_run, strict=True):
            if ran:
                self.last = self._of(tower, next(waiting), trace.groups, merged)
            found.append(self.last)
        return found

    def _of(self, tower: VisionTower, entered: BlockInput, groups: Sequence[Tensor] | None, merged: bool) -> Saliency:
        block = tower.blocks[self._layer]
        if groups is None:
            return Saliency(tower, block, self._needs, entered)
        entering = groups[self._layer % tower.facts.num_layers]
        return Saliency(tower, block, self._needs, entered, entering, groups[-1] if merged else None)

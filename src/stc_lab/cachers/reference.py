"""What a layer remembers of its reference frame, and a layer run against it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stc_lab.cachers.selection import Selection
from stc_lab.vision.base import Block

Select = Callable[[Tensor], Selection]


@dataclass(frozen=True)
class LayerReference:
    """One layer of the reference frame, in tensors that keep nothing of a larger batch alive.

    ``key`` and ``value`` [T, C]: projection outputs, all heads together; ``key_length`` [T]; ``update`` [T, C]: what
    the layer added to the residual stream, attention output plus MLP output. A token that is not recomputed gets
    just this added, so the sum is all that has to be kept of the two.
    """

    key: Tensor
    key_length: Tensor
    value: Tensor
    update: Tensor

    def similarity(self, key: Tensor) -> Tensor:
        """Cosine [F, T] of ``key`` [F, T, C] with the reference, token by token, in float32 or better."""
        key, own = _precise(key), _precise(self.key)
        return torch.linalg.vecdot(key, own) / (_length(key) * self.key_length)


def run_reference(block: Block, x: Tensor) -> tuple[Tensor, LayerReference]:
    """The whole layer for ``x`` [F, T, C], and what it remembers of the last frame."""
    normed = block.norm1(x)
    key, value = block.key(normed), block.value(normed)
    attended = block.project(block.attend(block.query(normed), key, value))
    x = x + attended
    fed = block.mlp(block.norm2(x))
    last_key = _last(key)
    reference = LayerReference(last_key, _length(_precise(last_key)), _last(value), attended[-1] + fed[-1])
    return x + fed, reference


def run_selective(
    block: Block, x: Tensor, reference: LayerReference, select: Select
) -> tuple[Tensor, Selection, Tensor]:
    """The layer for ``x`` [F, T, C] with only selected tokens recomputed; also the selection and the similarity.

    Keys are fresh for all tokens. Query, value, attention, output projection and MLP are computed for the selected
    tokens; the others keep their present input and add the reference's update. ``x`` must be contiguous.
    """
    normed = block.norm1(x)
    key = block.key(normed)
    similarity = reference.similarity(key)
    selection = select(similarity)
    output = x + reference.update
    if sum(selection.counts) > 0:
        rows = selection.rows
        chosen = _flat(normed).index_select(0, rows)
        value = reference.value.expand_as(x).clone(memory_format=torch.contiguous_format)
        _flat(value).index_copy_(0, rows, block.value(chosen))
        mixed = _attend_per_frame(block, block.query(chosen), key, value, selection.counts)
        fresh = _flat(x).index_select(0, rows) + block.project(mixed)
        fresh = fresh + block.mlp(block.norm2(fresh))
        _flat(output).index_copy_(0, rows, fresh)
    return output, selection, similarity


def _attend_per_frame(block: Block, query: Tensor, key: Tensor, value: Tensor, counts: list[int]) -> Tensor:
    """Attention of ``query`` [S, C], ``counts`` of them per frame, each over its own frame: [S, C]."""
    if len(set(counts)) == 1:
        return block.attend(query.unflatten(0, (len(counts), counts[0])), key, value).flatten(0, 1)
    parts = query.split(counts)
    mixed = [block.attend(part[None], key[f : f + 1], value[f : f + 1])[0] for f, part in enumerate(parts) if len(part)]
    return torch.cat(mixed)


def _flat(x: Tensor) -> Tensor:
    """All frames' tokens end to end, [F, T, C] to [F * T, C]; ``view``, because writes must reach ``x``."""
    return x.view(-1, x.shape[-1])


def _last(x: Tensor) -> Tensor:
    """Last frame of ``x`` [F, T, C]; a copy where it would keep other frames alive."""
    return x[0] if len(x) == 1 else x[-1].clone()


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _length(key: Tensor) -> Tensor:
    return torch.linalg.vector_norm(key, dim=-1).clamp_min(1e-8)

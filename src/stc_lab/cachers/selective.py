"""A layer run against the reference frame: only selected tokens are recomputed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stc_lab.cachers.likeness import Feature
from stc_lab.cachers.reference import LayerReference, Rule
from stc_lab.cachers.selection import Selection
from stc_lab.vision.tower import Block


def run_selective(
    block: Block, x: Tensor, reference: LayerReference, rule: Rule, shared: Selection | None = None
) -> tuple[Tensor, Selection, Tensor | None]:
    """The layer for ``x`` [F, T, C]; also the selection, and the likeness [F, T] to the reference it came from.

    Whatever is compared is fresh for all tokens; projections that are not compared are computed for the selected
    tokens alone. The other tokens keep their present input and add the reference's update. With ``shared`` that
    selection is taken, and nothing is compared. ``x`` must be contiguous.
    """
    normed = block.norm1(x)
    fresh = _compared(rule.feature, block, x, normed)
    similarity = reference.likeness(rule.metric, fresh) if shared is None else None
    selection = rule.select(similarity) if shared is None else shared
    layer = _SelectiveLayer(block, x, normed, fresh, reference, rule.feature, selection)
    run = {"both": layer.reuse_both, "attention": layer.reuse_attention, "mlp": layer.reuse_mlp}[rule.reuse]
    return run(), selection, similarity


def _compared(feature: Feature, block: Block, x: Tensor, normed: Tensor) -> Tensor:
    """What is compared, for all tokens: ``x`` [F, T, C] enters the layer, ``normed`` is ``x`` after its first norm."""
    if feature == "hidden":
        return x
    return block.key(normed) if feature == "key" else block.value(normed)


@dataclass(frozen=True)
class _SelectiveLayer:
    """All that is known of the layer once the tokens are selected; ``fresh`` [F, T, C] is what was compared."""

    block: Block
    x: Tensor
    normed: Tensor
    fresh: Tensor
    reference: LayerReference
    feature: Feature
    selection: Selection

    def reuse_both(self) -> Tensor:
        """Attention and MLP for the selected tokens only."""
        block, rows = self.block, self.selection.rows
        output = self.x + self.reference.update
        if not self.selection.is_empty:
            after = _flat(self.x).index_select(0, rows) + self._attention_of_selected()
            _flat(output).index_copy_(0, rows, after + block.mlp(block.norm2(after)))
        return output

    def reuse_attention(self) -> Tensor:
        """Attention for the selected tokens only, MLP for all."""
        block, rows = self.block, self.selection.rows
        after = self.x + self.reference.update
        if not self.selection.is_empty:
            fresh = _flat(self.x).index_select(0, rows) + self._attention_of_selected()
            _flat(after).index_copy_(0, rows, fresh)
        return after + block.mlp(block.norm2(after))

    def reuse_mlp(self) -> Tensor:
        """Attention for all tokens, MLP for the selected only."""
        block, rows = self.block, self.selection.rows
        key = self.fresh if self.feature == "key" else block.key(self.normed)
        value = self.fresh if self.feature == "value" else block.value(self.normed)
        after = self.x + block.project(block.attend(block.query(self.normed), key, value))
        output = after + self.reference.update
        if not self.selection.is_empty:
            chosen = _flat(after).index_select(0, rows)
            _flat(output).index_copy_(0, rows, chosen + block.mlp(block.norm2(chosen)))
        return output

    def _attention_of_selected(self) -> Tensor:
        """Attention output [S, C]: fresh queries over keys and values that are fresh or the reference's."""
        block, rows = self.block, self.selection.rows
        chosen = _flat(self.normed).index_select(0, rows)
        key = value = self.fresh
        if self.feature != "key":
            key = _mixed(self.reference.key, len(self.x), rows, block.key(chosen))
        if self.feature != "value":
            value = _mixed(self.reference.value, len(self.x), rows, block.value(chosen))
        return block.project(_attend_per_frame(block, block.query(chosen), key, value, self.selection.counts))


def _attend_per_frame(block: Block, query: Tensor, key: Tensor, value: Tensor, counts: list[int]) -> Tensor:
    """Attention of ``query`` [S, C], ``counts`` of them per frame, each over its own frame: [S, C]."""
    if len(set(counts)) == 1:
        return block.attend(query.unflatten(0, (len(counts), counts[0])), key, value).flatten(0, 1)
    parts = query.split(counts)
    mixed = [block.attend(part[None], key[f : f + 1], value[f : f + 1])[0] for f, part in enumerate(parts) if len(part)]
    return torch.cat(mixed)


def _mixed(reference: Tensor, num_frames: int, rows: Tensor, fresh: Tensor) -> Tensor:
    """The reference [T, C] for each of the frames, [F, T, C], with ``rows`` of all replaced by ``fresh`` [S, C]."""
    mixed = reference.expand(num_frames, -1, -1).clone(memory_format=torch.contiguous_format)
    _flat(mixed).index_copy_(0, rows, fresh)
    return mixed


def _flat(x: Tensor) -> Tensor:
    """All frames' tokens end to end, [F, T, C] to [F * T, C]; ``view``, because writes must reach ``x``."""
    return x.view(-1, x.shape[-1])

"""A layer in the two modes of STC-Cacher: in full, for a frame that becomes the reference, or against a reference.

STC (arXiv 2512.00891), section 3. In full it remembers what later frames are compared with and what they reuse;
against a reference only selected tokens are recomputed, the others take over what the layer added to the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from stc_lab.types import precise
from stc_lab.vision.tower import Block

Feature = Literal["key", "value", "hidden"]
Metric = Literal["cosine", "l1", "l2", "dot"]
FEATURES: tuple[str, ...] = get_args(Feature)
METRICS: tuple[str, ...] = get_args(Metric)
Reuse = Literal["both", "attention", "mlp"]
REUSES: tuple[str, ...] = get_args(Reuse)


def likeness(metric: Metric, current: Tensor, reference: Tensor, reference_length: Tensor) -> Tensor:
    """Per token [F, T], in float32 or better; higher is more alike, distances are negated.

    ``current`` [F, T, C], all channels together; ``reference`` [T, C] with its Euclidean ``reference_length`` [T].
    """
    current, reference = precise(current), precise(reference)
    if metric == "l1":
        return -(current - reference).abs().sum(-1)
    if metric == "l2":
        return -torch.linalg.vector_norm(current - reference, dim=-1)
    product = torch.linalg.vecdot(current, reference)
    return product if metric == "dot" else product / (length(current) * reference_length)


def length(x: Tensor) -> Tensor:
    """Euclidean length of each token of ``x`` [..., C], never zero."""
    return torch.linalg.vector_norm(x, dim=-1).clamp_min(1e-8)


@dataclass(frozen=True)
class Selection:
    """Tokens chosen in each frame of a batch.

    ``rows`` [S]: ascending indices into the F * T tokens of all frames laid end to end; ``counts`` [F].
    """

    rows: Tensor
    counts: list[int]
    num_tokens: int

    @property
    def is_empty(self) -> bool:
        """Whether no token of any frame was chosen."""
        return not any(self.counts)

    def per_frame(self) -> list[Tensor]:
        """Ascending token indices inside each frame."""
        return [rows - f * self.num_tokens for f, rows in enumerate(self.rows.split(self.counts))]


@dataclass(frozen=True)
class Rule:
    """How a layer is run against its reference.

    ``feature`` and ``metric``: what is compared, and how; ``reuse``: which output a token that is not recomputed
    takes from the reference; ``select``: from the likeness [F, T] to the tokens that are recomputed.
    """

    feature: Feature
    metric: Metric
    reuse: Reuse
    select: Callable[[Tensor], Selection]


@dataclass(frozen=True)
class LayerReference:
    """One layer of the reference frame, in tensors that keep nothing of a larger batch alive.

    ``compared`` [T, C]: the feature that later frames are compared with, ``length`` [T] its Euclidean length;
    ``update`` [T, C]: what a reused token adds to the residual stream: attention output, MLP output, or their sum,
    which is all that has to be kept of the two; ``key`` and ``value`` [T, C]: projections, all heads together, where
    attention mixes them because they are not what is compared.
    """

    compared: Tensor
    length: Tensor
    update: Tensor
    key: Tensor | None = None
    value: Tensor | None = None

    def likeness(self, metric: Metric, current: Tensor) -> Tensor:
        """Of ``current`` [F, T, C], token by token: [F, T], higher is more alike."""
        return likeness(metric, current, self.compared, self.length)


def run_reference(block: Block, x: Tensor, rule: Rule) -> tuple[Tensor, LayerReference]:
    """The whole layer for ``x`` [F, T, C], and what it remembers of the last frame."""
    # The layer as it is.
    normed = block.norm1(x)
    key, value = block.key(normed), block.value(normed)
    attended = block.project(block.attend(block.query(normed), key, value))
    after = x + attended
    fed = block.mlp(block.norm2(after))
    # Of the last frame: what is compared, what is reused, and what attention of selected tokens needs besides.
    compared = x[-1].clone() if rule.feature == "hidden" else _last(key if rule.feature == "key" else value)
    mixes = rule.reuse != "mlp"
    reference = LayerReference(
        compared=compared,
        length=length(precise(compared)),
        update=_update(attended, fed, rule.reuse),
        key=_last(key) if mixes and rule.feature != "key" else None,
        value=_last(value) if mixes and rule.feature != "value" else None,
    )
    return after + fed, reference


def _update(attended: Tensor, fed: Tensor, reuse: Reuse) -> Tensor:
    """The part of what the layer added to the last frame that later frames reuse."""
    if reuse == "both":
        return attended[-1] + fed[-1]
    return _last(attended if reuse == "attention" else fed)


def _last(x: Tensor) -> Tensor:
    """Last frame of ``x`` [F, T, C]; a copy where it would keep other frames alive."""
    return x[0] if len(x) == 1 else x[-1].clone()


def run_selective(
    block: Block, x: Tensor, reference: LayerReference, rule: Rule, shared: Selection | None = None
) -> tuple[Tensor, Selection, Tensor | None]:
    """The layer for ``x`` [F, T, C]; also the selection, and the likeness [F, T] to the reference it came from.

    Whatever is compared is fresh for all tokens; projections that are not compared are computed for the selected
    tokens alone. The other tokens keep their present input and add the reference's update. With ``shared`` that
    selection is taken, and nothing is compared. ``x`` must be contiguous.
    """
    # Likeness of every token to the same place of the reference: by default the cosine of the keys.
    normed = block.norm1(x)
    fresh = _compared(rule.feature, block, x, normed)
    similarity = reference.likeness(rule.metric, fresh) if shared is None else None
    # The tokens that changed: only these are recomputed.
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
        # Every token as if it were reused; then the selected ones, computed and written over it.
        output = self.x + self.reference.update
        if not self.selection.is_empty:
            after = _flat(self.x).index_select(0, rows) + self._attention_of_selected()
            _flat(output).index_copy_(0, rows, after + block.mlp(block.norm2(after)))
        return output

    def reuse_attention(self) -> Tensor:
        """Attention for the selected tokens only, MLP for all."""
        block, rows = self.block, self.selection.rows
        # Here the update is that of attention alone.
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
        # Here the update is that of the MLP alone.
        output = after + self.reference.update
        if not self.selection.is_empty:
            chosen = _flat(after).index_select(0, rows)
            _flat(output).index_copy_(0, rows, chosen + block.mlp(block.norm2(chosen)))
        return output

    def _attention_of_selected(self) -> Tensor:
        """Attention output [S, C]: fresh queries over keys and values that are fresh or the reference's."""
        block, rows = self.block, self.selection.rows
        chosen = _flat(self.normed).index_select(0, rows)
        # What was compared is fresh for all tokens; of the rest, tokens that are not selected have the reference's.
        key = value = self.fresh
        if self.feature != "key":
            key = _mixed(self.reference.key, len(self.x), rows, block.key(chosen))
        if self.feature != "value":
            value = _mixed(self.reference.value, len(self.x), rows, block.value(chosen))
        return block.project(_attend_per_frame(block, block.query(chosen), key, value, self.selection.counts))


def _attend_per_frame(block: Block, query: Tensor, key: Tensor, value: Tensor, counts: list[int]) -> Tensor:
    """Attention of ``query`` [S, C], ``counts`` of them per frame, each over its own frame: [S, C]."""
    # Equal counts, as a fixed ratio gives them, are one batch.
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

"""ToMe: similar tokens of a frame are merged layer by layer inside the tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from stc_lab.cachers.base import Cacher, Encoded, FrameTrace
from stc_lab.cachers.merging import TRENDS, Trend, exact_schedule, match, released_schedule
from stc_lab.measure.flops import vit_block_flops
from stc_lab.types import share
from stc_lab.vision.tower import Block, TowerFacts, VisionTower

DEFAULT_KEEP_RATIO = 0.25


@dataclass
class _Tokens:
    """Tokens on their way: ``x`` [F, T, C], how many patches each stands for, where each original token is."""

    x: Tensor
    sizes: Tensor
    groups: list[Tensor]


@dataclass(frozen=True, kw_only=True)
class ToMeCacher(Cacher):
    """Token merging (arXiv 2210.09461) in a vision tower, frame by frame; nothing is kept from frame to frame.

    In every layer, between attention and MLP, the most similar tokens become one (their size-weighted mean; metric:
    the layer's keys, averaged over heads). One of three says how far: ``num_tokens`` patches leave the tower,
    exactly; or ``keep_ratio`` of them, rounded down (0.25 if nothing is given); or ``r`` are merged per layer as in
    the released code. ``schedule``: the same number in every layer, or linearly falling or rising numbers. A layer
    merges at most half; what the layers of a shallow tower cannot reach is merged behind the last one, by the
    features themselves. ``proportional_attention`` counts a merged token as often as the patches it stands for.

    The tower's grid (27x27 for LLaVA-OneVision) is gone then, and with it what the backbone's pooling works on.
    ``output="grid"`` gives every patch the token it was merged into: projector, pooling and any pruner go on as
    ever, only the tower has become cheaper. ``output="merged"`` lets merging replace pooling: ``num_tokens`` tokens
    in reading order (of the first patch of each) go through the projector to the pruner or the language model.
    Raises ``ValueError`` naming the setting, its value, the rule.
    """

    num_tokens: int | None = None
    keep_ratio: float | None = None
    r: int | list[int] | None = None
    schedule: Trend = "constant"
    proportional_attention: bool = True
    output: Literal["grid", "merged"] = "grid"
    name: str = "tome"

    merges_in_tower: ClassVar[bool] = True

    def __post_init__(self) -> None:
        given = [field for field in ("num_tokens", "keep_ratio", "r") if getattr(self, field) is not None]
        if len(given) > 1:
            named = " and ".join(f"cacher.{field}={getattr(self, field)}" for field in given)
            raise ValueError(f"{named} contradict: give one of them")
        if self.num_tokens is not None and self.num_tokens < 1:
            raise ValueError(f"cacher.num_tokens={self.num_tokens}: must be at least 1")
        if self.keep_ratio is not None and not 0.0 < self.keep_ratio <= 1.0:
            raise ValueError(f"cacher.keep_ratio={self.keep_ratio}: must lie in (0, 1]")
        if self.schedule not in TRENDS:
            raise ValueError(f"cacher.schedule={self.schedule}: must be one of {', '.join(TRENDS)}")
        if self.output not in ("grid", "merged"):
            raise ValueError(f"cacher.output={self.output}: must be one of grid, merged")
        if self.output == "merged" and self.num_tokens is None:
            raise ValueError("cacher.output=merged needs cacher.num_tokens, the number of tokens that replace pooling")
        self._check_r()

    def _check_r(self) -> None:
        counts = [0] if self.r is None else [self.r] if isinstance(self.r, int) else self.r
        if not isinstance(counts, Sequence) or isinstance(counts, str) or not all(_is_count(n) for n in counts):
            raise ValueError(f"cacher.r={self.r}: must be a whole number from 0 on, or a list of them, one per layer")
        if isinstance(self.r, Sequence) and self.schedule != "constant":
            raise ValueError(f"cacher.r={self.r} says it per layer: cacher.schedule={self.schedule} contradicts it")

    @property
    def merged_tokens(self) -> int | None:
        return self.num_tokens if self.output == "merged" else None

    def answer_settings(self) -> dict[str, Any]:
        """The default share is written out, so that it equals the same share when given."""
        settings = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "name"}
        if self.num_tokens is None and self.r is None:
            settings["keep_ratio"] = self.keep_ratio or DEFAULT_KEEP_RATIO
        return settings

    def num_left(self, facts: TowerFacts) -> int | None:
        """Patches that leave the tower, ``None`` where ``r`` decides."""
        if self.r is not None or self.num_tokens is not None:
            return self.num_tokens
        return max(1, share(facts.num_tokens - facts.num_special_tokens, self.keep_ratio or DEFAULT_KEEP_RATIO))

    def merged_per_layer(self, facts: TowerFacts) -> list[int]:
        """Tokens that each layer merges away. Raises ``ValueError`` for a frame with fewer than are to be left."""
        num_left = self.num_left(facts)
        if num_left is None:
            return released_schedule(self.r, self.schedule, facts.num_layers)
        num_patches = facts.num_tokens - facts.num_special_tokens
        return exact_schedule(num_patches, num_left, self.schedule, facts.num_layers)

    def new_state(self) -> None:
        return None

    def run(self, tower: VisionTower, x: Tensor, state: None) -> Encoded:
        if not tower.can_merge or tower.facts.num_special_tokens > 1:
            raise ValueError(f"cacher=tome cannot run on a {type(tower).__name__}: its tokens cannot be merged")
        num_frames, num_tokens, _ = x.shape
        start = torch.arange(num_tokens, device=x.device).expand(num_frames, -1)
        tokens = _Tokens(x, x.new_ones(num_frames, num_tokens, dtype=torch.float32), [start])
        counts = []
        for block, num_merged in zip(tower.blocks, self.merged_per_layer(tower.facts), strict=True):
            self._layer(block, tower, tokens, num_merged)
            counts.append(tokens.x.shape[1])
        self._merge_rest(tower, tokens)
        traces = [
            FrameTrace(False, counts, batch_size=num_frames, groups=[groups[f] for groups in tokens.groups])
            for f in range(num_frames)
        ]
        if self.output == "grid":
            return Encoded(_gather(tokens.x, tokens.groups[-1]), traces, num_tokens)
        return _in_reading_order(tokens, traces)

    def flops(self, facts: TowerFacts, trace: FrameTrace) -> int:
        """Blocks for the tokens there are, and the products of the matching, half against half of the key width."""
        width, mlp = facts.hidden_size, facts.mlp_size
        before = [facts.num_tokens, *trace.num_recomputed[:-1]]
        total = 0
        for num_in, num_out in zip(before, trace.num_recomputed, strict=True):
            matching = 0 if num_in == num_out else num_in**2 // 2 * (width // facts.num_heads)
            total += vit_block_flops(num_in, width, mlp) - 4 * (num_in - num_out) * width * mlp + matching
        num_tokens = trace.num_recomputed[-1]
        while num_tokens > (self.num_left(facts) or num_tokens) + facts.num_special_tokens:
            total += num_tokens**2 // 2 * width
            num_tokens -= num_tokens // 2
        return total

    def _layer(self, block: Block, tower: VisionTower, tokens: _Tokens, num_merged: int) -> None:
        # Attention over the tokens there are, each counted as often as it stands for a patch (section 3, eq. 1).
        x, normed = tokens.x, block.norm1(tokens.x)
        query, key, value = block.query(normed), block.key(normed), block.value(normed)
        is_merged = x.shape[1] < tower.facts.num_tokens
        if is_merged and self.proportional_attention:
            mixed = block.attend_weighted(query, key, value, tokens.sizes)
        else:
            mixed = block.attend(query, key, value)
        x = x + block.project(mixed)
        # Between attention and MLP: tokens with the most similar keys (mean over the heads) become one.
        groups = tokens.groups[-1]
        if num_merged:
            metric = key.unflatten(-1, (tower.facts.num_heads, -1)).mean(-2)
            merge = match(metric, num_merged, tower.facts.num_special_tokens > 0)
            x, tokens.sizes = merge.apply(x, tokens.sizes)
            groups = merge.follow(groups)
        tokens.groups.append(groups)
        tokens.x = x + block.mlp(block.norm2(x))

    def _merge_rest(self, tower: VisionTower, tokens: _Tokens) -> None:
        """Down to the exact number, where the layers alone did not get there."""
        special, num_left = tower.facts.num_special_tokens, self.num_left(tower.facts)
        while num_left is not None and tokens.x.shape[1] > num_left + special:
            merge = match(tokens.x, tokens.x.shape[1] - special - num_left, special > 0)
            tokens.x, tokens.sizes = merge.apply(tokens.x, tokens.sizes)
            tokens.groups[-1] = merge.follow(tokens.groups[-1])


def _gather(x: Tensor, indices: Tensor) -> Tensor:
    """Rows ``indices`` [F, N] of ``x`` [F, T, C]."""
    return x.gather(1, indices.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def _in_reading_order(tokens: _Tokens, traces: list[FrameTrace]) -> Encoded:
    """Merged tokens by the first original token in each."""
    groups, num_left = tokens.groups[-1], tokens.x.shape[1]
    # The first original place in each merged token; their order; and each token's number in that order.
    places = torch.arange(groups.shape[1], device=groups.device).expand_as(groups)
    first = groups.new_full((len(groups), num_left), groups.shape[1]).scatter_reduce(1, groups, places, "amin")
    order = first.argsort(dim=1)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(num_left, device=order.device).expand_as(order))
    for f, trace in enumerate(traces):
        trace.groups = [*trace.groups[:-1], rank[f][groups[f]]]
    return Encoded(_gather(tokens.x, order), traces, groups.shape[1], tokens.sizes.gather(1, order))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0

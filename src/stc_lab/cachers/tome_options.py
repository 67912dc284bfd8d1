"""Settings of token merging, and how many tokens they leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from stc_lab.cachers.base import Cacher
from stc_lab.cachers.merge_schedule import TRENDS, Trend, exact_schedule, released_schedule
from stc_lab.cachers.selection import share
from stc_lab.vision.tower import TowerFacts

DEFAULT_KEEP_RATIO = 0.25


@dataclass(frozen=True, kw_only=True)
class ToMeOptions(Cacher):
    """See :class:`stc_lab.cachers.tome.ToMeCacher`. Raises ``ValueError`` naming the setting, its value, the rule."""

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


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0

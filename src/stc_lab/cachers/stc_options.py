"""Settings of STC-Cacher, one per axis of the paper's ablations, and their mistakes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from stc_lab.cachers.base import Cacher
from stc_lab.cachers.likeness import FEATURES, METRICS, Feature, Metric
from stc_lab.cachers.reference import REUSES, Reuse

DEFAULT_THRESHOLD = 0.85
CHOICES = {"feature": FEATURES, "metric": METRICS, "reuse": REUSES, "selection": (None, "ratio", "threshold")}
SHARES = ("update_ratio", "threshold", "max_update_ratio", "refresh_share", "refresh_threshold")


@dataclass(frozen=True, kw_only=True)
class STCOptions(Cacher):
    """See :class:`stc_lab.cachers.stc.STCCacher`. Raises ``ValueError`` naming the setting, its value and the rule."""

    interval: int | None = 2
    update_ratio: float = 0.25
    threshold: float | None = None
    max_update_ratio: float = 1.0
    feature: Feature = "key"
    metric: Metric = "cosine"
    reuse: Reuse = "both"
    selection_layer: int | None = None
    refresh_share: float | None = None
    refresh_threshold: float = DEFAULT_THRESHOLD
    chunk_size: int = 1
    protect_cls: bool = True
    selection: Literal["ratio", "threshold"] | None = None
    name: str = "stc"

    def __post_init__(self) -> None:
        if self.interval is not None and self.interval < 1:
            raise ValueError(f"cacher.interval={self.interval}: must be at least 1, or null for one reference only")
        if self.chunk_size < 1:
            raise ValueError(f"cacher.chunk_size={self.chunk_size}: must be at least 1")
        if self.selection_layer is not None and self.selection_layer < 0:
            raise ValueError(f"cacher.selection_layer={self.selection_layer}: must be a layer from 0 on, or null")
        for field, choices in CHOICES.items():
            if getattr(self, field) not in choices:
                named = ", ".join("null" if choice is None else choice for choice in choices)
                raise ValueError(f"cacher.{field}={getattr(self, field)}: must be one of {named}")
        for field in SHARES:
            value = getattr(self, field)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ValueError(f"cacher.{field}={value}: must lie in [0, 1]")
        self._derive_selection()

    def _derive_selection(self) -> None:
        """A threshold chooses selection by threshold, and that without one means the default threshold."""
        if self.selection == "ratio" and self.threshold is not None:
            raise ValueError(
                f"cacher.selection=ratio contradicts cacher.threshold={self.threshold}: a threshold replaces the "
                "fixed ratio; set it to null, or leave out the selection"
            )
        if self.selection == "threshold" and self.threshold is None:
            object.__setattr__(self, "threshold", DEFAULT_THRESHOLD)
        object.__setattr__(self, "selection", "ratio" if self.threshold is None else "threshold")
        if self.threshold is not None and self.metric != "cosine":
            raise ValueError(
                f"cacher.metric={self.metric} has no fixed scale, so cacher.threshold={self.threshold} means nothing: "
                "use metric=cosine, or threshold=null and an update_ratio"
            )

    def answer_settings(self) -> dict[str, Any]:
        """The settings that can change an answer as they stand: without those that the others switch off."""
        if self.interval == 1:
            return {"interval": 1}
        idle = {"name", "selection"} | ({"refresh_threshold"} if self.refresh_share is None else set())
        idle |= {"threshold", "max_update_ratio"} if self.threshold is None else {"update_ratio"}
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in idle}

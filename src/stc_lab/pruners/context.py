"""What a pruner may know of a frame besides its tokens."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class FrameContext:
    """Facts about one frame. ``grid`` is (rows, columns) of the full frame.

    The rest comes from the vision tower, brought to the tokens of the frame, and only for methods that name it in
    ``needs``. ``attention_received`` [T]: attention of the class token to each token, summed over heads, or in a
    tower without one what each token receives from all tokens on average. ``keys`` [T, heads, head size]: the key
    projections of that layer.
    """

    grid: tuple[int, int]
    timestamp_s: float = 0.0
    attention_received: Tensor | None = None
    keys: Tensor | None = None

    def require(self, needs: Collection[str], method: str) -> None:
        """Raise ``ValueError`` where something that ``method`` needs is missing."""
        missing = sorted(name for name in needs if getattr(self, name) is None)
        if missing:
            raise ValueError(
                f"{method} needs {' and '.join(missing)} of the vision tower: pass context=[FrameContext(...), ...], "
                "one per frame (stc_lab.vision.TokenSaliency measures them)"
            )

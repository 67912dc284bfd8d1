"""Who wants to see what becomes of each frame (token maps); a session works the same without."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from stc_lab.cachers.base import FrameTrace
from stc_lab.types import VisualTokens
from stc_lab.vision.base import VisionTower


class FrameSink(Protocol):
    """Belongs to one stream, and is handed to its session by :meth:`StreamSession.show_to`."""

    def note(self, pixels: np.ndarray, time_s: float, trace: FrameTrace, tower: VisionTower) -> Any:
        """A frame has left the tower. Returns what is to be known of it later, ``None`` where it is not wanted.

        ``pixels``: uint8 [H, W, 3], or [2, H, W, 3] where a tower takes frames in pairs; the caller's, not to be kept.
        """

    def add(self, note: Any, full: VisualTokens, kept: VisualTokens | None) -> None:
        """The frame of ``note`` is remembered, in time order; ``kept`` is ``None`` where frames are not pruned.

        Called while an answer is waited for, so it must not compute, nor wait for a device.
        """

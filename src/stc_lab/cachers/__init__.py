"""Vision-side methods: how much of the tower is computed for a frame. One method per file."""

from __future__ import annotations

from stc_lab.cachers.base import Cacher, Encoded, FrameTrace
from stc_lab.cachers.none import NoCacher
from stc_lab.cachers.stc import STCCacher

__all__ = ["Cacher", "Encoded", "FrameTrace", "NoCacher", "STCCacher"]

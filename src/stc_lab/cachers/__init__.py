"""Vision-side methods: how much of the tower is computed for a frame. One method per file."""

from __future__ import annotations

from stc_lab.cachers.base import Cacher, Encoded, FrameTrace
from stc_lab.cachers.frame_reuse import FrameReuseCacher
from stc_lab.cachers.none import NoCacher
from stc_lab.cachers.stc import STCCacher
from stc_lab.cachers.tome import ToMeCacher

__all__ = ["Cacher", "Encoded", "FrameReuseCacher", "FrameTrace", "NoCacher", "STCCacher", "ToMeCacher"]

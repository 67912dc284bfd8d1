"""Vision towers run by the lab's own loop over the leaf modules of Hugging Face models."""

from __future__ import annotations

from stc_lab.vision.base import Block, TowerFacts, VisionTower
from stc_lab.vision.prenorm import ClipTower, SiglipTower
from stc_lab.vision.probe import Probe
from stc_lab.vision.qwen import QwenTower

__all__ = ["Block", "ClipTower", "Probe", "QwenTower", "SiglipTower", "TowerFacts", "VisionTower"]

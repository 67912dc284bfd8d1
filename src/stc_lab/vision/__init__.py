"""Vision towers run by the lab's own loop over the leaf modules of Hugging Face models."""

from __future__ import annotations

from stc_lab.vision.qwen import QwenTower
from stc_lab.vision.saliency import TokenSaliency
from stc_lab.vision.tower import Block, ClipTower, SiglipTower, TowerFacts, VisionTower

__all__ = ["Block", "ClipTower", "QwenTower", "SiglipTower", "TokenSaliency", "TowerFacts", "VisionTower"]

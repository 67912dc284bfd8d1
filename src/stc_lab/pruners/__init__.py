"""Methods that hand fewer visual tokens per frame to the language model. One method per file."""

from __future__ import annotations

from stc_lab.pruners.base import Pruner
from stc_lab.pruners.context import FrameContext
from stc_lab.pruners.dart import DARTPruner
from stc_lab.pruners.downsample import DownsamplePruner
from stc_lab.pruners.dtd import DTDPruner
from stc_lab.pruners.dycoke import DyCokePruner
from stc_lab.pruners.magnitude import MagnitudePruner
from stc_lab.pruners.none import NoPruner
from stc_lab.pruners.random import RandomPruner
from stc_lab.pruners.recent import RecentPruner
from stc_lab.pruners.selecting import FramePruner, ScorePruner
from stc_lab.pruners.stc import STCPruner
from stc_lab.pruners.stc_gaussian import STCGaussianPruner
from stc_lab.pruners.uniform import UniformPruner
from stc_lab.pruners.vidcom2 import VidCom2Pruner
from stc_lab.pruners.visionzip import VisionZipPruner

__all__ = [
    "DARTPruner",
    "DTDPruner",
    "DownsamplePruner",
    "DyCokePruner",
    "FrameContext",
    "FramePruner",
    "MagnitudePruner",
    "NoPruner",
    "Pruner",
    "RandomPruner",
    "RecentPruner",
    "STCGaussianPruner",
    "STCPruner",
    "ScorePruner",
    "UniformPruner",
    "VidCom2Pruner",
    "VisionZipPruner",
]

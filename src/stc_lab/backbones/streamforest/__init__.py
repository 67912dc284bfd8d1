"""StreamForest: a forest of merged events, a fine-grained window, and one fresh prompt per question."""

from stc_lab.backbones.streamforest.backbone import StreamForest
from stc_lab.backbones.streamforest.pocket import new_pocket_streamforest

__all__ = ["StreamForest", "new_pocket_streamforest"]

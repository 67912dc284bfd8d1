"""StreamForest: a model trained with a forest of merged events and a fine-grained window as its memory."""

from stc_lab.backbones.streamforest.model import StreamForest
from stc_lab.backbones.streamforest.pocket import new_pocket_streamforest

__all__ = ["StreamForest", "new_pocket_streamforest"]

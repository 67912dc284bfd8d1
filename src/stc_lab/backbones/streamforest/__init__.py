"""StreamForest: a model trained with a forest of merged events and a fine-grained window as its memory."""

from stc_lab.backbones.streamforest.model import StreamForest

__all__ = ["StreamForest"]

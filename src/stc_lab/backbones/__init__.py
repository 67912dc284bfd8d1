"""Video language models: settings, facts, loading, prompts. Nothing here belongs to a stream."""

from stc_lab.backbones.base import Backbone, VideoModel

__all__ = ["Backbone", "VideoModel"]

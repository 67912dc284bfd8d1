"""Video language models with a streaming memory."""

from stc_lab.backbones.base import Backbone
from stc_lab.backbones.session import StreamSession

__all__ = ["Backbone", "StreamSession"]

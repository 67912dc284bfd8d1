"""StreamingVLM: commentary on an endless stream in constant memory (arXiv:2510.09608)."""

from stc_lab.backbones.streamingvlm.backbone import StreamingVLM

__all__ = ["StreamingVLM"]

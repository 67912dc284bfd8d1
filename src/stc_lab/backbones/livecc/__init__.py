"""LiveCC: a model that comments on a video while it runs (arXiv:2504.16030)."""

from stc_lab.backbones.livecc.backbone import LiveCC

__all__ = ["LiveCC"]

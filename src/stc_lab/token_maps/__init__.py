"""Pictures of what a method did to footage: computed and reused patches, kept and dropped tokens."""

from stc_lab.token_maps.collector import Collector
from stc_lab.token_maps.drawing import TokenMaps

__all__ = ["Collector", "TokenMaps"]

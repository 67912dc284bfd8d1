"""Text decoder over Hugging Face layers with explicit positions and pluggable key-value stores."""

from stc_lab.language.decoder import TextDecoder
from stc_lab.language.generate import greedy

__all__ = ["TextDecoder", "greedy"]

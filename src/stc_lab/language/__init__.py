"""Text decoder over Hugging Face layers with explicit positions and pluggable key-value stores."""

from stc_lab.language.decoder import TextDecoder

__all__ = ["TextDecoder"]

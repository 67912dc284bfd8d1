"""Streaming token compression for video language models, measured in one run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stc_lab.acceleration import accelerate

__all__ = ["__version__", "accelerate"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``accelerate`` on demand, so that the command line need not import torch to print its help."""
    if name == "accelerate":
        from stc_lab.acceleration import accelerate

        return accelerate
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

"""Streaming token compression for video language models, measured in one run."""

from __future__ import annotations

from importlib import import_module
from typing import Any

PUBLIC = {
    "load": "stc_lab.api",
    "choice": "stc_lab.api",
    "open_session": "stc_lab.api",
    "run": "stc_lab.api",
    "accelerate": "stc_lab.acceleration",
    "StreamSession": "stc_lab.session",
    "Backbone": "stc_lab.backbones",
    "VideoModel": "stc_lab.backbones",
    "Memory": "stc_lab.memories",
    "MemoryState": "stc_lab.memories",
    "Reading": "stc_lab.memories",
    "Query": "stc_lab.memories",
    "Cacher": "stc_lab.cachers",
    "Pruner": "stc_lab.pruners",
    "Benchmark": "stc_lab.benchmarks.base",
    "Question": "stc_lab.types",
    "Answer": "stc_lab.types",
    "FrameReport": "stc_lab.types",
    "VisualTokens": "stc_lab.types",
}
"""The public names, and the module that each comes from."""

__all__ = ["__version__", *PUBLIC]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Public names on demand, so that the command line need not import torch to print its help."""
    if name in PUBLIC:
        return getattr(import_module(PUBLIC[name]), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

"""Streaming token compression for video language models, measured in one run."""

__version__ = "0.1.0"

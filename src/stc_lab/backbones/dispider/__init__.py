"""Dispider: perception of clips, a decision when to respond, reaction by a language model."""

from stc_lab.backbones.dispider.model import Dispider

__all__ = ["Dispider"]

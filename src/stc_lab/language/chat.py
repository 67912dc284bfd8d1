"""The chat template of Qwen-VL models, as the released code of LiveCC and StreamingVLM renders it."""

from __future__ import annotations

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
SYSTEM = f"{IM_START}system\nYou are a helpful assistant.{IM_END}\n"
USER = f"{IM_START}user\n"
ASSISTANT = f"{IM_START}assistant\n"
CLOSE = f"{IM_END}\n"
VISION_START, VISION_END, VIDEO_PAD = "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"
ELLIPSIS = " ..."
"""Ends what is said about a second; alone it is silence."""


def time_text(start_s: float, stop_s: float) -> str:
    """First words of a turn about the seconds from ``start_s`` to ``stop_s``."""
    return f"Time={start_s:.1f}-{stop_s:.1f}s"

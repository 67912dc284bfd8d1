"""The chat template of Qwen-VL models, as the released code of LiveCC and StreamingVLM renders it."""

from __future__ import annotations

from collections.abc import Collection

from transformers import PreTrainedTokenizerBase

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


class LoadedText:
    """A loaded checkpoint as far as text is concerned; ``stop_ids`` end an answer."""

    tokenizer: PreTrainedTokenizerBase
    stop_ids: frozenset[int]

    def token_ids(self, text: str) -> list[int]:
        """Ids of ``text`` as it stands, chat markers included and nothing added."""
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def text(self, token_ids: Collection[int]) -> str:
        """Text of generated ids without special tokens."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True)

"""What a session of a Qwen-VL model remembers, and how it is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stc_lab.backbones.qwen_vl.speaking import Spoken, Voice
from stc_lab.types import TimedText, VisualTokens


@dataclass(frozen=True)
class Patch:
    """A temporal patch (two frames) and the stream time it covers."""

    visual: VisualTokens
    start_s: float
    stop_s: float


@dataclass(frozen=True)
class Request:
    """A question as text, the first words of its answer, and what was seen since the last turn."""

    text: str
    answer_start: str
    unseen: Sequence[Patch] = ()


@dataclass(frozen=True)
class Cost:
    """A pass through the decoder: ``num_tokens`` new ones after ``num_context`` others."""

    num_tokens: int
    num_context: int
    flops: int


class Memory(ABC):
    """Takes temporal patches, may speak about them, and holds one question at a time.

    A question is opened with :meth:`ask`, its answer is said with :meth:`say`, and :meth:`settle` ends it: then either
    nothing of it is left, or it has become part of the stream.
    """

    @abstractmethod
    def watch(self, patches: Sequence[Patch]) -> list[int]:
        """Take the next temporal patches; returns the FLOPs of reading each."""

    @abstractmethod
    def ask(self, request: Request) -> tuple[Tensor, Cost]:
        """Read a question. Returns the logits [V] after it and what it cost."""

    @abstractmethod
    def say(self, voice: Voice, logits: Tensor, max_new_tokens: int) -> tuple[Spoken, int]:
        """Words after a question, and the FLOPs they took."""

    @abstractmethod
    def settle(self, spoken: Spoken | None) -> None:
        """End the question that is open; ``spoken``: what was said, to be remembered (``None``: forget all of it)."""

    @abstractmethod
    def stats(self) -> dict[str, int]:
        """Sizes in tokens and bytes."""

    def finish(self) -> None:
        """The stream is over: read what waited for more."""

    def address(self, message: str) -> None:
        """What the viewer says with the next turn, for memories that take turns."""
        raise ValueError("backbone.mode=oneshot takes no messages between questions; ask a question instead")

    def take_lines(self) -> tuple[list[TimedText], int]:
        """What was said about the stream since the last call, and the FLOPs of saying it."""
        return [], 0


def seen_mask(vocab_size: int, device: torch.device) -> Tensor:
    """An empty record of which tokens have occurred, [V]."""
    return torch.zeros(vocab_size, dtype=torch.bool, device=device)

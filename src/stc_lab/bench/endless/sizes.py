"""What is predicted of a memory: exact numbers, or a range where the content of the stream decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """From ``low`` to ``high``, both included."""

    low: int
    high: int

    @classmethod
    def exactly(cls, number: int) -> Range:
        """One number."""
        return cls(number, number)

    def __contains__(self, number: int) -> bool:
        return self.low <= number <= self.high

    def __mul__(self, factor: int) -> Range:
        return Range(self.low * factor, self.high * factor)

    def __add__(self, number: int) -> Range:
        return Range(self.low + number, self.high + number)

    @property
    def is_exact(self) -> bool:
        """Whether it is one number."""
        return self.low == self.high


@dataclass(frozen=True)
class Sizes:
    """Tokens in the memory, and its bytes on the device and on the host, between two frames."""

    tokens: Range
    device: Range
    host: Range = Range(0, 0)

    def misses(self, stats: Mapping[str, int]) -> list[str]:
        """Which of these numbers in a session's ``stats`` are not as predicted, in words."""
        pairs = (
            ("num_tokens", self.tokens),
            ("kv_bytes_device", self.device),
            ("kv_bytes_host", self.host),
        )
        return [
            f"{key}={stats[key]}, predicted {wanted.low} to {wanted.high}"
            for key, wanted in pairs
            if stats[key] not in wanted
        ]

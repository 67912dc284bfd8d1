"""Milliseconds of a piece of work, and a limit on how long measuring may go on."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from stc_lab.measure.timer import StageTimer


def time_ms(device: torch.device, work: Callable[[], object]) -> float:
    """Milliseconds of ``work``, until the device has finished."""
    timer = StageTimer(device)
    with timer.stage("work"):
        work()
    return timer.drain()["work"]


class Deadline:
    """Passes ``limit_s`` seconds after it was made (``None``: never)."""

    def __init__(self, limit_s: float | None) -> None:
        self._end_s = None if limit_s is None else time.monotonic() + limit_s

    def has_passed(self) -> bool:
        """Whether measuring should stop."""
        return self._end_s is not None and time.monotonic() > self._end_s

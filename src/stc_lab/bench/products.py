"""How much of a piece of work is matrix products."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from stc_lab.bench.stopwatch import time_ms
from stc_lab.measure.timer import StageTimer

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "convolution")


def split_ms(device: torch.device, work: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds of ``work``, and of the matrix products in it, attention as a whole among them.

    Each product is timed on its own. That slows down what is between them by some microseconds per operation, and on
    a GPU a product includes its launch where the device has nothing else to do.
    """
    clock = _ProductClock(device)
    with clock:
        total_ms = time_ms(device, work)
    return total_ms, clock.timer.drain().get("products", 0.0)


class _ProductClock(TorchDispatchMode):
    """Sends every operation on its way, products with a stopwatch."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.timer = StageTimer(device)

    def __torch_dispatch__(
        self, func: OpOverload, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if not is_product(func.overloadpacket.__name__):
            return func(*args, **(kwargs or {}))
        with self.timer.stage("products"):
            return func(*args, **(kwargs or {}))


def is_product(operation: str) -> bool:
    """Whether an operation, by its name in ATen, is a matrix product or attention as a whole."""
    return operation in PRODUCTS or "attention" in operation

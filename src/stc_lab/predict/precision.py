"""``trainer.precision``: the type of the weights, and whether products of 32-bit numbers are what they say.

Lightning's own half precision also makes it the default type of every tensor made during a step, positions and
scores of a method included. Here only the weights get it; what is computed in 32 bits stays so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

DTYPES = {"32-true": torch.float32, "bf16-true": torch.bfloat16, "16-true": torch.float16}


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """``dtype`` as torch's default type inside the block."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def exact_products(precision: str) -> Iterator[None]:
    """Under ``32-true`` no product inside the block takes TF32, which torch allows convolutions by default.

    TF32 has 10 bits of mantissa: the patch embedding of a GPU would differ from a CPU's by 1e-3.
    """
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    if precision == "32-true":
        for backend in backends:
            backend.allow_tf32 = False
    try:
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed

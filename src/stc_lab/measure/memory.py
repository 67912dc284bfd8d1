"""Peak memory of a run."""

from __future__ import annotations

import resource
import sys

import torch

GIB = 1024**3


def reset_peak_memory(device: str | torch.device) -> None:
    """Start a new peak on CUDA. The peak of a CPU process cannot be reset and covers its whole life."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_mem_gib(device: str | torch.device) -> float:
    """Peak GiB: allocated by torch on CUDA, resident set of this process (model included) elsewhere."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB

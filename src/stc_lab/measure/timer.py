"""Times of the stages of one frame or one question, and the peak memory of a run.

On a CPU a stage is the wall time between entry and exit. On CUDA it is the time between two events in the
current stream, so that nothing waits inside a stage; ``StageTimer.drain`` waits for the last of them and
reads them all. Host work inside a CUDA stage counts as soon as the device has nothing else to do meanwhile. On Apple
GPUs the device is synchronised at both ends of a stage.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

GIB = 1024**3


class StageTimer:
    """Collects milliseconds per stage name; a stage entered twice between two drains counts both times."""

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self._uses_events = self.device.type == "cuda"
        self._open: str | None = None
        self._host_ms: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block under ``name``; it counts also when the block raises. Stages must not nest."""
        if self._open is not None:
            raise RuntimeError(f"stage '{name}' entered inside stage '{self._open}': stages must not nest")
        # On a GPU an event goes into the stream; the host does not wait.
        self._open, self._started = name, self._tick()
        try:
            yield
        finally:
            self._add(name, self._started)
            self._open = None

    @contextmanager
    def attribute_to(self, name: str) -> Iterator[None]:
        """Inside a stage: time the block under ``name`` instead. Outside of any it is ``stage``."""
        # The outer stage pauses and goes on behind the block.
        outer, self._open = self._open, None
        if outer is not None:
            self._add(outer, self._started)
        try:
            with self.stage(name):
                yield
        finally:
            if outer is not None:
                self._open, self._started = outer, self._tick()

    def drain(self) -> dict[str, float]:
        """Milliseconds per stage since the last drain, in order of first use; waits until the last stage is through."""
        times = self._host_ms
        self._host_ms = {}
        for name, start, end in self._events:
            end.synchronize()  # of its own stream alone: what runs beside this stream is not waited for
            times[name] = times.get(name, 0.0) + start.elapsed_time(end)
        self._events = []
        return times

    def add(self, times_ms: Mapping[str, float]) -> None:
        """Count times that were drained before."""
        for name, ms in times_ms.items():
            self._host_ms[name] = self._host_ms.get(name, 0.0) + ms

    def mark(self) -> float:
        """A point in time for ``elapsed_ms``, once what was queued before in the current stream is done."""
        self._synchronize()
        return time.perf_counter()

    def elapsed_ms(self, mark: float) -> float:
        """Wall milliseconds since ``mark``, once the current stream is done: time to first token and the like."""
        self._synchronize()
        return (time.perf_counter() - mark) * 1e3

    def _tick(self) -> float | torch.cuda.Event:
        if not self._uses_events:
            self._synchronize()
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _add(self, name: str, start: float | torch.cuda.Event) -> None:
        end = self._tick()
        if self._uses_events:
            self._events.append((name, start, end))
        else:
            self._host_ms[name] = self._host_ms.get(name, 0.0) + (end - start) * 1e3

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        elif self.device.type == "mps":
            torch.mps.synchronize()


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

"""Memory that two processes share, through which one frame at a time is handed over.

A frame of 720p is 2.8 MB. Through a pipe that is dozens of turns from process to process, each of which waits
for its place on a busy machine; through shared memory it is two copies.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile

import numpy as np


class SharedFrame:
    """Room for one frame behind a file descriptor that both processes hold; grows with the frames.

    Who writes and who reads when is settled elsewhere: a frame must be read before the next one is written.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._memory: mmap.mmap | None = None

    @classmethod
    def create(cls) -> SharedFrame:
        """Without a name in any file system, so that nothing stays behind however the processes end."""
        if hasattr(os, "memfd_create"):
            return cls(os.memfd_create("stc_lab_frame"))
        with tempfile.TemporaryFile() as file:
            return cls(os.dup(file.fileno()))

    def write(self, pixels: np.ndarray) -> None:
        """Put a frame there (uint8, any shape)."""
        if os.fstat(self.descriptor).st_size < pixels.nbytes:
            os.ftruncate(self.descriptor, pixels.nbytes)
        self._view(pixels.nbytes)[:] = pixels.reshape(-1)

    def read(self, shape: tuple[int, ...]) -> np.ndarray:
        """A copy of the frame of this shape, uint8."""
        return self._view(math.prod(shape)).reshape(shape).copy()

    def close(self) -> None:
        """Let go of it on this side."""
        self._memory = None
        os.close(self.descriptor)

    def _view(self, num_bytes: int) -> np.ndarray:
        if self._memory is None or len(self._memory) < num_bytes:
            self._memory = mmap.mmap(self.descriptor, num_bytes)
        return np.frombuffer(self._memory, np.uint8, count=num_bytes)

"""One decoder process per owner: kept over many files, ended when a read hangs, started again when needed.

Frames come through memory that both processes share: a frame of 720p is 2.8 MB, through a pipe that is dozens of turns
from process to process, each of which waits for its place on a busy machine; through shared memory it is two copies.
"""

from __future__ import annotations

import logging
import math
import mmap
import os
import subprocess
import sys
import tempfile
import weakref
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from stc_lab.video.sampling import SampledFrame, VideoError, VideoInfo

START_LIMIT_S = 120.0
DYING_LIMIT_S = 2.0

log = logging.getLogger(__name__)


class DecoderProcess:
    """Decodes in a process of its own, one file at a time, up to ``read_ahead`` frames ahead of the caller.

    The process starts with the first file and stays. A read over its time limit, or a crash of the decoder,
    ends it; the next file starts another. It ends with this object, with ``close``, and when the owner dies
    in whatever way. Belongs to one thread and cannot be sent to another process.
    """

    def __init__(self, read_ahead: int = 4) -> None:
        if isinstance(read_ahead, bool) or not isinstance(read_ahead, int) or read_ahead < 1:
            raise ValueError(f"read_ahead={read_ahead!r}: choose a whole number of frames, at least 1")
        self._read_ahead = read_ahead
        self._channel: Connection | None = None
        self._shared: SharedFrame | None = None
        self._worker: subprocess.Popen | None = None
        self._finalizer: weakref.finalize | None = None
        self._current: RemoteDecoder | None = None
        self._reported: set[str] = set()

    @property
    def pid(self) -> int | None:
        """Process id of the decoder, ``None`` while none is running."""
        return self._worker.pid if self._worker is not None and self._worker.poll() is None else None

    def open(self, path: Path, reader: str, fps: float, timeout_s: float) -> RemoteDecoder:
        """Open a file; the one opened before (if any) is closed. Raises ``VideoError``."""
        if self.pid is None:
            self._start()
        self._current = RemoteDecoder(self, path, timeout_s)
        self._current.info = self.request(self._current, "open", str(path), reader, fps)
        return self._current

    def is_news(self, message: str) -> bool:
        """Whether this is said for the first time here, so that a warning about every file is given once."""
        is_news = message not in self._reported
        self._reported.add(message)
        return is_news

    def request(self, client: RemoteDecoder, *message: object) -> VideoInfo | SampledFrame | None:
        """Send ``message`` on behalf of ``client`` and wait for the answer, at most its time limit."""
        if client is not self._current or self._channel is None:
            raise RuntimeError(f"{client.path}: no longer open, its DecoderProcess was closed or opened another video")
        # A read that hangs ends the process, a process that dies is told from a file that is broken.
        try:
            self._channel.send(message)
            if not self._channel.poll(client.timeout_s):
                raise _timeout(client)
            answer = _receive(self._channel, self._shared)
        except (EOFError, ConnectionError) as error:
            raise VideoError(f"{client.path}: the decoder died of it ({self._exit_reason()})", "unreadable") from error
        except BaseException:
            self.close()  # an answer may be under way that nobody waits for any more
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer

    def release(self, client: RemoteDecoder) -> None:
        """Close the file of ``client`` in the decoder; the decoder stays."""
        if client is not self._current:
            return
        self._current = None
        if self.pid is not None:
            try:
                self._channel.send(("close",))
            except ConnectionError:
                self.close()

    def close(self) -> None:
        """End the decoder; a file opened later starts another."""
        if self._finalizer is not None:
            self._finalizer()
        self._channel = self._shared = self._worker = self._finalizer = self._current = None

    def __enter__(self) -> DecoderProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> str:
        raise TypeError("a DecoderProcess cannot be sent to another process: make one there")

    def _start(self) -> None:
        self.close()
        self._channel, theirs = Pipe()
        self._shared = SharedFrame.create()
        descriptors = (theirs.fileno(), self._shared.descriptor)
        with theirs:
            self._worker = subprocess.Popen(
                [sys.executable, "-P", "-m", "stc_lab.video.worker", *map(str, (*descriptors, self._read_ahead))],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=descriptors,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)},
            )
        self._finalizer = weakref.finalize(self, _stop, self._worker, self._channel, self._shared, os.getpid())
        try:
            started = self._channel.poll(START_LIMIT_S) and self._channel.recv()
        except (EOFError, ConnectionError):
            started = False
        except BaseException:
            self.close()
            raise
        if not started:
            raise RuntimeError(f"the video decoder process did not start ({self._exit_reason()})")
        log.debug("video decoder process %d started", self._worker.pid)

    def _exit_reason(self) -> str:
        """How the decoder ended; ends it if it has not."""
        worker = self._worker
        try:
            worker.wait(timeout=DYING_LIMIT_S)
        except subprocess.TimeoutExpired:
            log.debug("video decoder process %d hung up but lives: killed", worker.pid)
        self.close()
        code = worker.returncode
        return f"ended by signal {-code}" if code < 0 else f"exit code {code}"


class RemoteDecoder:
    """One file open in a ``DecoderProcess``; the same interface as ``Decoder``."""

    info: VideoInfo

    def __init__(self, process: DecoderProcess, path: Path, timeout_s: float) -> None:
        self._process = process
        self.path = path
        self.timeout_s = timeout_s

    def next_sample(self) -> SampledFrame | None:
        """The frame at the next grid point, ``None`` after the last one. Raises ``VideoError``."""
        return self._process.request(self, "next")

    def close(self) -> None:
        """Let go of the file."""
        self._process.release(self)


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


def _receive(channel: Connection, shared: SharedFrame) -> VideoInfo | SampledFrame | Exception | None:
    """One answer, with its pixels if it is a frame (their shape came in their place)."""
    answer = channel.recv()
    return replace(answer, pixels=shared.read(answer.pixels)) if isinstance(answer, SampledFrame) else answer


def _timeout(client: RemoteDecoder) -> VideoError:
    return VideoError(f"{client.path}: a read took more than {client.timeout_s:g} s and was ended", "timeout")


def _stop(worker: subprocess.Popen, channel: Connection, shared: SharedFrame, owner_pid: int) -> None:
    """End a decoder at once: it only reads, so there is nothing it could leave half done."""
    if os.getpid() != owner_pid:
        return  # a forked copy of the owner is going away, the owner is not
    worker.kill()
    worker.wait()
    worker.stdin.close()
    channel.close()
    shared.close()

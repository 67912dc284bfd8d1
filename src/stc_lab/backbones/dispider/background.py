"""Where reactions run: at once, or one after the other beside the stream."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from stc_lab.types import Answer

Job = Callable[[], Answer]


class Background:
    """Runs jobs in the order they come; ``asynchronous``: in a thread of their own, on a CUDA stream of their own.

    A job must touch nothing that the stream goes on to change. The kernels release Python's lock, so that perception
    and decision make progress while a reaction decodes. What a job raises comes out of its future's ``result``.
    """

    def __init__(self, asynchronous: bool, device: torch.device) -> None:
        self._device = device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reaction") if asynchronous else None
        self._stream = torch.cuda.Stream(device) if asynchronous and device.type == "cuda" else None

    def start(self, job: Job) -> Future[Answer]:
        """Run ``job`` now, or as soon as those before it are done."""
        if self._thread is None:
            return _done(job)
        if self._stream is None:
            return self._thread.submit(_isolated, job)
        ready = torch.cuda.Event()
        ready.record(torch.cuda.current_stream(self._device))
        return self._thread.submit(self._on_stream, job, ready)

    def close(self) -> None:
        """Wait for the running job; those that have not begun are cancelled."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def _on_stream(self, job: Job, ready: torch.cuda.Event) -> Answer:
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(ready)
            answer = _isolated(job)
            self._stream.synchronize()  # before what it read may be freed
            return answer


def _isolated(job: Job) -> Answer:
    """Inference mode belongs to a thread."""
    with torch.inference_mode():
        return job()


def _done(job: Job) -> Future[Answer]:
    future: Future[Answer] = Future()
    try:
        future.set_result(job())
    except Exception as error:
        future.set_exception(error)
    return future

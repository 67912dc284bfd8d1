"""When to speak: the contract of what decides, while a stream goes on, that it is time to answer a question."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from stc_lab.measure import StageTimer
from stc_lab.memories.base import MemoryState, Reading
from stc_lab.types import Answer, Decision, Question


class Trigger(ABC):
    """Settings and weights of what decides; all that changes lives in the state of a stream."""

    @abstractmethod
    def open(self, memory: MemoryState, timer: StageTimer) -> TriggerState:
        """The decisions of one stream, made from what ``memory`` holds."""


class TriggerState(ABC):
    """The watched questions of one stream.

    A question is watched from the moment it is given; from then on every decision about it is reported with the frame
    with which it was made. Watching changes no answer to a question that is asked.
    """

    @abstractmethod
    def watch(self, question: Question) -> None:
        """Decide from now on when to answer ``question``. Raises ``ValueError`` if it is watched already."""

    @abstractmethod
    def unwatch(self, question_id: str) -> None:
        """Make no more decisions about a question; one that is not watched is no error."""

    @abstractmethod
    def observe(self) -> tuple[list[Decision], int]:
        """Frames were remembered: the decisions that this allows, and the FLOPs they took."""

    @abstractmethod
    def reading(self, decision: Decision) -> tuple[Question, Reading]:
        """What a decision was based on, whatever came since. Raises ``ValueError`` for one that was not made here."""

    @abstractmethod
    def stats(self) -> dict[str, int]:
        """``num_watched`` and the bytes that watching keeps on the device, ``watch_bytes``."""

    def close(self) -> None:
        """Let go of everything that is kept."""


Job = Callable[[], Answer]


class Background:
    """Runs answers in the order they come; ``asynchronous``: in a thread of their own, on a CUDA stream of their own.

    A job must touch nothing that the stream goes on to change. The kernels release Python's lock, so that the stream
    makes progress while an answer is decoded. What a job raises comes out of its future's ``result``.
    """

    def __init__(self, asynchronous: bool, device: torch.device) -> None:
        self._device = device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="answer") if asynchronous else None
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

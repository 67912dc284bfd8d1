"""Events inside a stream, for the callbacks of the trainer that want to know."""

from __future__ import annotations

from lightning.pytorch import Callback, Trainer

from stc_lab.predict.tasks import StreamTask
from stc_lab.results.records import Record


class StreamCallback(Callback):
    """A Lightning callback that also hears of frames and records; all events are optional."""

    def on_stream_start(self, task: StreamTask, duration_s: float | None) -> None:
        """The video of a stream was opened; ``duration_s`` when its header tells."""

    def on_frames(self, num_frames: int) -> None:
        """So many more frames were pushed."""

    def on_record(self, record: Record) -> None:
        """A question is done, answered or not."""

    def on_stream_end(self, task: StreamTask) -> None:
        """All pending questions of the stream have a record."""


def notify(trainer: Trainer, event: str, *args: object) -> None:
    """Call ``event`` of every :class:`StreamCallback` of the trainer."""
    for callback in trainer.callbacks:
        if isinstance(callback, StreamCallback):
            getattr(callback, event)(*args)

"""How far the run is: a bar over frames and questions, or plain lines where there is no terminal."""

from __future__ import annotations

import math
import time
from typing import Protocol

from lightning.pytorch import LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from stc_lab.predict.loop import StreamCallback
from stc_lab.predict.stream import StreamTask
from stc_lab.results.records import Record

REFRESH_PER_SECOND = 1  # each redraw costs milliseconds of CPU time
SECONDS_BETWEEN_LINES = 15.0


class Display(Protocol):
    """Where the counts are shown."""

    def start(self, counts: Counts) -> None: ...

    def update(self, counts: Counts) -> None: ...

    def stop(self, counts: Counts) -> None: ...


class Counts:
    """Frames and questions of one process, done and in all; frames in all are an estimate that gets better."""

    def __init__(self, tasks: list[StreamTask], fps: float, num_processes: int = 1) -> None:
        self.fps = fps
        self.num_processes = num_processes
        self.estimates = {task.stream.stream_id: estimated_num_frames(task, fps) for task in tasks}
        self.num_streams = len(tasks)
        self.num_questions = sum(len(task.pending) for task in tasks)
        self.frames_done = 0
        self.questions_done = 0
        self.questions_scored = 0
        self.questions_right = 0
        self._frames_of_stream = 0

    @property
    def num_frames(self) -> int:
        """Frames in all, never fewer than were pushed."""
        # A stream without a known end counts with the frames it has had.
        return max(sum(self.estimates.values()), self.frames_done)

    def start_stream(self, task: StreamTask, duration_s: float | None) -> None:
        """Estimate the stream's frames again, now that its duration is known."""
        self._frames_of_stream = 0
        self.estimates[task.stream.stream_id] = estimated_num_frames(task, self.fps, duration_s)

    def add_frames(self, num_frames: int) -> None:
        """Count pushed frames."""
        self.frames_done += num_frames
        self._frames_of_stream += num_frames

    def add_record(self, record: Record) -> None:
        """Count a question."""
        self.questions_done += 1
        self.questions_scored += record.correct is not None
        self.questions_right += bool(record.correct)

    def end_stream(self, task: StreamTask) -> None:
        """Replace the estimate by what there was."""
        self.estimates[task.stream.stream_id] = self._frames_of_stream


class StreamProgress(StreamCallback):
    """Shows the progress of the first process; the others have shares of about the same size."""

    def __init__(self, fps: float, console: Console | None = None) -> None:
        self.fps = fps
        self.console = console
        self._counts: Counts | None = None
        self._display: Display | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        console = self.console or Console(stderr=True)
        self._display = BarDisplay(console) if console.is_terminal else LineDisplay(console)
        tasks = trainer.datamodule.share(trainer.global_rank, trainer.world_size)
        self._counts = Counts(tasks, self.fps, trainer.world_size)
        self._display.start(self._counts)

    def on_stream_start(self, task: StreamTask, duration_s: float | None) -> None:
        if self._counts:
            self._counts.start_stream(task, duration_s)

    def on_frames(self, num_frames: int) -> None:
        if self._counts:
            self._counts.add_frames(num_frames)
            self._display.update(self._counts)

    def on_record(self, record: Record) -> None:
        if self._counts:
            self._counts.add_record(record)
            self._display.update(self._counts)

    def on_stream_end(self, task: StreamTask) -> None:
        if self._counts:
            self._counts.end_stream(task)
            self._display.update(self._counts)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._counts:
            self._display.stop(self._counts)
            self._counts = self._display = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "predict")


class BarDisplay:
    """Two rich bars with the time left."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            refresh_per_second=REFRESH_PER_SECOND,
            speed_estimate_period=60.0,
        )

    def start(self, counts: Counts) -> None:
        self._frames = self._progress.add_task("frames", total=counts.num_frames, note="")
        self._questions = self._progress.add_task("questions", total=counts.num_questions, note="")
        self._progress.start()

    def update(self, counts: Counts) -> None:
        scored = counts.questions_scored
        note = f"{counts.questions_right / scored:.0%} right" if scored else ""
        self._progress.update(self._frames, completed=counts.frames_done, total=counts.num_frames)
        self._progress.update(self._questions, completed=counts.questions_done, note=note)

    def stop(self, counts: Counts) -> None:
        self.update(counts)
        self._progress.stop()


class LineDisplay:
    """A line now and then, for log files and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def start(self, counts: Counts) -> None:
        self._start = self._last = time.monotonic()
        frames = f", about {counts.num_frames} frames" if counts.num_frames else ""
        share = f" (first of {counts.num_processes} processes)" if counts.num_processes > 1 else ""
        self._print(f"{counts.num_streams} streams, {counts.num_questions} questions{frames}{share}")

    def update(self, counts: Counts) -> None:
        if time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            self._print(self._line(counts))

    def stop(self, counts: Counts) -> None:
        self._print(self._line(counts))

    def _line(self, counts: Counts) -> str:
        elapsed_s = time.monotonic() - self._start
        line = (
            f"questions {counts.questions_done}/{counts.num_questions}, "
            f"frames {counts.frames_done}/{counts.num_frames}, {elapsed_s:.0f} s"
        )
        left = counts.num_frames - counts.frames_done
        if counts.frames_done and left > 0:
            line += f", about {elapsed_s * left / counts.frames_done:.0f} s left"
        return line

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)


def estimated_num_frames(task: StreamTask, fps: float, duration_s: float | None = None) -> int:
    """Frames on the sampling grid 0, 1/fps, ... that will be pushed, counted once per context; 0 while unknown.

    A video that ends earlier, or one that is asked at its end, is only known by its ``duration_s``.
    """
    return sum(_frames_between(start_s, until_s, fps, duration_s) for start_s, until_s in task.spans())


def _frames_between(start_s: float, until_s: float, fps: float, duration_s: float | None) -> int:
    until_s = until_s if duration_s is None else min(until_s, duration_s)
    if math.isinf(until_s) or until_s < 0:
        return 0
    return max(0, math.floor(until_s * fps + 1e-6) + 1 - math.ceil(start_s * fps - 1e-6))

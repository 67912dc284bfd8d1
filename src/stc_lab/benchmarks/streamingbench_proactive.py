"""``dataset=streamingbench_proactive``: proactive output of StreamingBench, where the model must find the moment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from stc_lab.benchmarks import prompts
from stc_lab.benchmarks.files import find_annotation
from stc_lab.benchmarks.official import Item, OfficialBenchmark
from stc_lab.benchmarks.streamingbench_files import Row, read_rows, seconds
from stc_lab.types import Polling, Question

DECIDED_BY = ("auto", "model", "polls")


@dataclass(frozen=True, kw_only=True)
class StreamingBenchProactive(OfficialBenchmark):
    """250 questions about 50 videos, each polled for every ``poll_every_s`` until its moment is recognised.

    Polls start one interval after the question and end ``patience_s`` after the true moment. A yes within
    ``tolerance_s`` of it is in time; then the question itself is asked, and its answer must contain the true output.
    ``show_past``: also what was on before the question was put, which the official script cuts off.
    ``decided_by``: who says that it is time: ``polls`` as in the official script, the ``model`` itself by the decisions
    of a session that makes them, or ``auto``, the model where it can.
    """

    prompt: Literal["official", "bare"] = "official"
    poll_every_s: float = 1.0
    patience_s: float = 4.0
    tolerance_s: float = 2.0
    show_past: bool = False
    decided_by: Literal["auto", "model", "polls"] = "auto"
    name: str = "streamingbench_proactive"

    part: ClassVar[str] = "proactive"
    prompt_styles: ClassVar[tuple[str, ...]] = ("official", "bare")
    annotations: ClassVar[tuple[str, ...]] = (
        "questions_proactive.json", "*/questions_proactive.json", "Proactive_Output.csv", "*/Proactive_Output.csv",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.poll_every_s > 0:
            raise ValueError(f"dataset.poll_every_s={self.poll_every_s}: must be above 0 seconds")
        if self.decided_by not in DECIDED_BY:
            raise ValueError(f"dataset.decided_by={self.decided_by}: must be one of {', '.join(DECIDED_BY)}")
        for name in ("patience_s", "tolerance_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"dataset.{name}={getattr(self, name)}: must be 0 seconds or more")

    def items(self) -> Iterator[Item]:
        """One item per question."""
        for row in read_rows(find_annotation(self.root, self.annotations)):
            yield Item(f"sample_{row.sample}_{self.part}", row.candidates(self.part), self._question(row))

    def _question(self, row: Row) -> Question:
        content = row.content
        text, output = content["question"], content["ground_truth_output"]
        asked_s, moment_s = seconds(content["time_stamp"]), seconds(content["ground_truth_time_stamp"])
        poll = prompts.PROACTIVE_POLL.format(text, output)
        start_s = 0.0 if self.show_past else asked_s
        return Question(
            question_id=row.question_id,
            time_s=asked_s,
            text=text,
            answer=output,
            task=content["task_type"],
            context_start_s=start_s,
            meta={"ground_truth_time_s": moment_s, "tolerance_s": self.tolerance_s},
            prompt=prompts.STREAMINGBENCH_PROACTIVE.format(text),
            polling=Polling(
                ask=Question(row.question_id, asked_s, poll, prompt=prompts.STREAMINGBENCH_PROACTIVE.format(poll)),
                first_s=asked_s + self.poll_every_s,
                last_s=moment_s + self.patience_s,
                interval_s=self.poll_every_s,
                decided_by=self.decided_by,
            ),
        )

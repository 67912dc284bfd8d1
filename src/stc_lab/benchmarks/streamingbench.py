"""``dataset=streamingbench``: real-time visual understanding of StreamingBench (arXiv:2411.03628)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from stc_lab.benchmarks import prompts
from stc_lab.benchmarks.files import find_annotation
from stc_lab.benchmarks.official import Item, OfficialBenchmark
from stc_lab.benchmarks.options import lettered, plain
from stc_lab.benchmarks.streamingbench_files import Row, read_rows, seconds
from stc_lab.types import Question


@dataclass(frozen=True, kw_only=True)
class StreamingBench(OfficialBenchmark):
    """2,500 questions about 499 videos.

    ``context_s``: only so many seconds before a question are shown, each window in a session of its own; ``None``, the
    default of the official script, shows the whole past. The main table of the paper was made with 60.
    """

    context_s: float | None = None
    name: str = "streamingbench"

    part: ClassVar[str] = "real"
    annotations: ClassVar[tuple[str, ...]] = (
        "questions_real.json", "*/questions_real.json",
        "Real_Time_Visual_Understanding.csv", "*/Real_Time_Visual_Understanding.csv",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.context_s is not None and not self.context_s > 0:
            raise ValueError(f"dataset.context_s={self.context_s}: must be above 0 seconds, or null for the whole past")

    def items(self) -> Iterator[Item]:
        """One item per question."""
        for row in read_rows(find_annotation(self.root, self.annotations)):
            yield self._item(row, self._prompt(row))

    def _item(self, row: Row, prompt: str) -> Item:
        return Item(f"sample_{row.sample}_{self.part}", row.candidates(self.part), self._question(row, prompt))

    def _question(self, row: Row, prompt: str) -> Question:
        content, time_s = row.content, seconds(row.content["time_stamp"])
        return Question(
            question_id=row.question_id,
            time_s=time_s,
            text=content["question"],
            options=plain(content["options"]),
            answer=content["answer"],
            task=content["task_type"],
            context_start_s=0.0 if self.context_s is None else max(0.0, time_s - self.context_s),
            meta={"time_stamp": content["time_stamp"]},
            prompt=prompt,
        )

    def _prompt(self, row: Row) -> str:
        return prompts.streamingbench_real(row.content["question"], lettered(row.content["options"]))

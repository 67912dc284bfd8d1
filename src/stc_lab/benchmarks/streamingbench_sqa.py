"""``dataset=streamingbench_sqa``: questions of StreamingBench that refer to earlier ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from stc_lab.benchmarks import prompts
from stc_lab.benchmarks.files import find_annotation
from stc_lab.benchmarks.official import Item
from stc_lab.benchmarks.options import lettered
from stc_lab.benchmarks.streamingbench import StreamingBench
from stc_lab.benchmarks.streamingbench_files import read_rows

HISTORIES = ("gold", "none")


@dataclass(frozen=True, kw_only=True)
class StreamingBenchSQA(StreamingBench):
    """250 questions about 50 videos.

    ``history``: ``gold`` puts the earlier questions of the video, in the order of the file and with their right
    answers, into the prompt, as the official script does; ``none`` leaves them out.
    """

    history: Literal["gold", "none"] = "gold"
    name: str = "streamingbench_sqa"

    part: ClassVar[str] = "sqa"
    annotations: ClassVar[tuple[str, ...]] = (
        "questions_sqa.json", "*/questions_sqa.json",
        "Sequential_Question_Answering.csv", "*/Sequential_Question_Answering.csv",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.history not in HISTORIES:
            raise ValueError(f"dataset.history={self.history}: must be one of {', '.join(HISTORIES)}")

    def items(self) -> Iterator[Item]:
        """One item per question."""
        told: defaultdict[int, str] = defaultdict(str)
        for row in read_rows(find_annotation(self.root, self.annotations)):
            content, options = row.content, lettered(row.content["options"])
            prompt = prompts.streamingbench_sqa(content["question"], options, told[row.sample])
            if self.history == "gold":
                told[row.sample] += prompts.sqa_history_item(
                    content["time_stamp"], content["question"], options, content["answer"]
                )
            yield self._item(row, prompt)

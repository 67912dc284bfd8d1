"""``dataset=streamingbench_sqa``: questions of StreamingBench that refer to earlier ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from stc_lab.benchmarks.base import Item, check_choice, find_annotation, lettered
from stc_lab.benchmarks.rules import Rule
from stc_lab.benchmarks.streamingbench import SEQUENTIAL, StreamingBench, read_rows

HISTORIES = ("gold", "none")

# To the letter; frozen by the files in tests/benchmarks/prompts.
PROMPT = (
    "You are an advanced video question-answering AI assistant. You have been provided with a video and a "
    "multiple-choice question related to the video. Your task is to carefully analyze the video and the provided "
    "context to answer the question, choosing from the four options provided. Respond with only the letter "
    "(A, B, C, or D) of the correct option.\n\n{}\n\n"
    "Here is the question. Answer it and don't confuse it with the previous conversation.\n"
    "Question: {}\n\nOptions:\n{}\n\nThe best option is:"
)
HISTORY_START = (
    "Here are the contextual information related to the video. "
    "Please answer the questions based on the contextual information: "
)
HISTORY_ITEM = "At timestamp {}, the following question and answer occurred: Question: {}; Options: {}; Answer: {}; "


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
    rule: ClassVar[Rule] = replace(StreamingBench.rule, name="streamingbench_sqa", sizes={SEQUENTIAL: 250})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("history", self.history, HISTORIES)

    def items(self) -> Iterator[Item]:
        """One item per question."""
        told: defaultdict[int, str] = defaultdict(str)
        for row in read_rows(find_annotation(self.root, self.annotations)):
            content, options = row.content, lettered(row.content["options"])
            earlier = told[row.sample]
            context = HISTORY_START + earlier if earlier else ""
            yield row.item(
                self.part, self.question(row, PROMPT.format(context, content["question"], "\n".join(options)))
            )
            # Later questions about the same video are told about this one.
            if self.history == "gold":
                told[row.sample] += HISTORY_ITEM.format(
                    content["time_stamp"], content["question"], ", ".join(options), content["answer"]
                )

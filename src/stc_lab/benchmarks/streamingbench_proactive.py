"""``dataset=streamingbench_proactive``: proactive output of StreamingBench, where the model must find the moment.

Rule: ``src/data/count.py`` of github.com/THUNLP-MT/StreamingBench, the right thing at the right moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from stc_lab.answers import read_text
from stc_lab.benchmarks.base import Item, OfficialBenchmark, check_choice, find_annotation
from stc_lab.benchmarks.predictions import Imported
from stc_lab.benchmarks.rules import Asked, Rule, when_said
from stc_lab.benchmarks.streamingbench import Row, part_of_file, read_output_file, read_rows, seconds
from stc_lab.types import Polling, Question

DECIDED_BY = ("auto", "model", "polls")
TOLERANCE_S = 2.0
QUOTES = "\"'\u201c\u201d"

# To the letter; frozen by the files in tests/benchmarks/prompts.
PROMPT = (
    "You are an advanced image question-answering AI assistant. You have been provided with images and a question "
    "related to the images. Your task is to carefully analyze the images and provide the answer to the question. "
    "You need to carefully confirm whether the images content meet the conditions of the question, and then output "
    "the correct content.\n\nQuestion: {}\n\nThe answer is:\n"
)
POLL = '{} Is it the right time to output "{}"? You can only answer yes or no.'


def is_timely(asked: Asked, text: str, details: Mapping[str, Any] | None = None) -> bool:
    """Whether ``details["answered_s"]`` is within the tolerance of ``meta["ground_truth_time_s"]``."""
    answered_s = (details or {}).get("answered_s")
    if answered_s is None:
        return False
    return abs(answered_s - asked.meta["ground_truth_time_s"]) <= asked.meta.get("tolerance_s", TOLERANCE_S)


def is_right(asked: Asked, text: str, details: Mapping[str, Any] | None = None) -> bool:
    """In time, and the wanted output occurs in the text."""
    return is_timely(asked, text, details) and asked.answer in text


def read_strictly(asked: Asked, text: str) -> str | None:
    """The strict reading: the output and nothing else, but for quotes, a full stop and space around it."""
    said = read_text(text.strip().strip(QUOTES).removesuffix(".").strip(QUOTES))
    wanted = asked.answer.strip().removesuffix(".")
    return asked.answer if said is not None and said.casefold() == wanted.casefold() else said


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
    tolerance_s: float = TOLERANCE_S
    show_past: bool = False
    decided_by: Literal["auto", "model", "polls"] = "auto"
    name: str = "streamingbench_proactive"

    part: ClassVar[str] = "proactive"
    prompt_styles: ClassVar[tuple[str, ...]] = ("official", "bare")
    annotations: ClassVar[tuple[str, ...]] = (
        "questions_proactive.json", "*/questions_proactive.json", "Proactive_Output.csv", "*/Proactive_Output.csv",
    )  # fmt: skip
    rule: ClassVar[Rule] = Rule(
        name="streamingbench_proactive",
        official=is_right,
        strict=read_strictly,
        official_words="answered within 2 s of the true moment, and the wanted output occurs in the answer",
        strict_words="answered within 2 s of the true moment with the wanted output and nothing else, case aside",
        source="github.com/THUNLP-MT/StreamingBench, src/data/count.py",
        counts=when_said,
        timely=is_timely,
        sizes={"Proactive Output": 250},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.poll_every_s > 0:
            raise ValueError(f"dataset.poll_every_s={self.poll_every_s}: must be above 0 seconds")
        check_choice("decided_by", self.decided_by, DECIDED_BY)
        for name in ("patience_s", "tolerance_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"dataset.{name}={getattr(self, name)}: must be 0 seconds or more")

    def items(self) -> Iterator[Item]:
        """One item per question."""
        for row in read_rows(find_annotation(self.root, self.annotations)):
            yield row.item(self.part, self._question(row))

    def _question(self, row: Row) -> Question:
        content = row.content
        text, output = content["question"], content["ground_truth_output"]
        asked_s, moment_s = seconds(content["time_stamp"]), seconds(content["ground_truth_time_stamp"])
        poll = POLL.format(text, output)
        return Question(
            question_id=row.question_id,
            time_s=asked_s,
            text=text,
            answer=output,
            task=content["task_type"],
            context_start_s=0.0 if self.show_past else asked_s,
            meta={"ground_truth_time_s": moment_s, "tolerance_s": self.tolerance_s},
            prompt=PROMPT.format(text),
            polling=Polling(
                ask=Question(row.question_id, asked_s, poll, prompt=PROMPT.format(poll)),
                first_s=asked_s + self.poll_every_s,
                last_s=moment_s + self.patience_s,
                interval_s=self.poll_every_s,
                decided_by=self.decided_by,
            ),
        )

    @classmethod
    def is_prediction_file(cls, content: Any) -> bool:
        """Whether its first question waits for a moment."""
        return part_of_file(content) == cls.part

    @classmethod
    def read_predictions(cls, path: Path, model: str | None = None, unwrap_lists: bool = False) -> Imported:
        """All questions of an output file, with the dialogues under the key ``model`` (``None``: the only one)."""
        return read_output_file(path, cls.name, cls.part, model)

"""``dataset=streamingbench``: real-time visual understanding of StreamingBench (arXiv:2411.03628), and its files.

Annotations are the repository's JSON or the hub's CSV, for all parts alike; so are published predictions: the
annotation file with the model's answer added to every question, under the name of the model, whatever that is.

Prompts: ``src/benchmark/*.py`` of github.com/THUNLP-MT/StreamingBench. The published figures of token compression come
from the script of the STC repository, which compares the text without surrounding space with the gold letter and leaves
unanswered questions out. The benchmark's own ``src/data/count.py`` compares the first character instead; that is
reported beside it where it makes a difference.
"""

from __future__ import annotations

import ast
import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from stc_lab.benchmarks.base import Item, OfficialBenchmark, find_annotation, lettered, plain, read_json
from stc_lab.benchmarks.predictions import MISSING, Imported, Prediction, json_files, load_json, text_of
from stc_lab.benchmarks.rules import ONE_LETTER, Asked, Rule, read_option, when_said
from stc_lab.types import Question

# To the letter; frozen by the files in tests/benchmarks/prompts.
PROMPT = (
    "You are an advanced video question-answering AI assistant. You have been provided with some frames from the "
    "video and a multiple-choice question related to the video. Your task is to carefully analyze the video and "
    "provide the best answer to question, choosing from the four options provided. Respond with only the letter "
    "(A, B, C, or D) of the correct option.\n\nQuestion: {}\n\nOptions:\n{}\n\nThe best option is:"
)

SIZES = {
    "Object Recognition": 367,
    "Action Recognition": 353,
    "Text-Rich Understanding": 321,
    "Clips Summarize": 317,
    "Attribute Recognition": 306,
    "Spatial Understanding": 246,
    "Counting": 193,
    "Event Understanding": 161,
    "Causal Reasoning": 128,
    "Prospective Reasoning": 108,
}


def is_right(asked: Asked, text: str, details: Mapping[str, Any] | None = None) -> bool:
    """The official rule: the text is the letter."""
    return text.strip() == asked.answer


def starts_right(asked: Asked, text: str, details: Mapping[str, Any] | None = None) -> bool:
    """The benchmark's own script: the first character of the text is the letter."""
    return text.strip()[:1] == asked.answer


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
    rule: ClassVar[Rule] = Rule(
        name="streamingbench",
        official=is_right,
        strict=partial(read_option, num_letters=4),
        official_words="the text is the gold letter, but for space around it; unanswered questions are left out",
        strict_words=ONE_LETTER,
        source="github.com/lern-to-write/STC, streamingbench/src/data/count.py",
        counts=when_said,
        others={"first_character": starts_right},
        sizes=SIZES,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.context_s is not None and not self.context_s > 0:
            raise ValueError(f"dataset.context_s={self.context_s}: must be above 0 seconds, or null for the whole past")

    def items(self) -> Iterator[Item]:
        """One item per question."""
        for row in read_rows(find_annotation(self.root, self.annotations)):
            options = "\n".join(lettered(row.content["options"]))
            yield row.item(self.part, self.question(row, PROMPT.format(row.content["question"], options)))

    def question(self, row: Row, prompt: str) -> Question:
        """The multiple-choice question of a row, put as in ``prompt``."""
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

    @classmethod
    def is_prediction_file(cls, content: Any) -> bool:
        """Whether its first question is one of this part."""
        return part_of_file(content) == cls.part

    @classmethod
    def read_predictions(cls, path: Path, model: str | None = None, unwrap_lists: bool = False) -> Imported:
        """All questions of an output file, with the answers under the key ``model`` (``None``: the only one)."""
        return read_output_file(path, cls.name, cls.part, model)


# Annotations of all parts.

SAMPLE = re.compile(r"sample_(\d+)")
HUB_ID = re.compile(r"_(?:sample_)?(\d+)_(\d+)$")


@dataclass(frozen=True)
class Row:
    """A question as annotated. ``sample``: number of the video in its part; ``number``: of the question in it.

    ``video_path`` is empty in the hub's files, which name videos by their sample only.
    """

    sample: int
    number: int
    content: Mapping[str, Any]
    video_path: str = ""

    @property
    def question_id(self) -> str:
        """The same for both kinds of files: ``sample_348_2`` is the second question about sample 348."""
        return f"sample_{self.sample}_{self.number}"

    def item(self, part: str, question: Question) -> Item:
        """The question about its video, which lies as annotated, as renamed by the official script, or as unpacked."""
        renamed = f"sample_{self.sample}_{part}.mp4"
        unpacked = f"sample_{self.sample}/video.mp4"
        official = [self.video_path.removeprefix("./")] if self.video_path else []
        candidates = (*official, renamed, f"videos/{renamed}", unpacked, f"{part}/{unpacked}")
        return Item(f"sample_{self.sample}_{part}", candidates, question)


def read_rows(path: Path) -> list[Row]:
    """All questions in file order, numbered within their video from 1 on. Raises ``ValueError`` for another file."""
    return list(_hub_rows(path)) if path.suffix == ".csv" else list(_repository_rows(path))


def seconds(time_stamp: str) -> float:
    """Stream time of ``00:03:10``, ``0:03:10`` or ``03:10``."""
    return float(sum(int(part) * 60**power for power, part in enumerate(reversed(time_stamp.split(":")))))


def _repository_rows(path: Path) -> Iterator[Row]:
    counts: Counter[int] = Counter()
    for entry in read_json(path):
        for part in entry if isinstance(entry, list) else [entry]:
            sample = int(SAMPLE.search(part["video_path"])[1])
            for content in part["questions"]:
                counts[sample] += 1
                yield Row(sample, counts[sample], content, part["video_path"])


def _hub_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        for line, content in enumerate(csv.DictReader(file), 2):
            match = HUB_ID.search(content.get("question_id") or "")
            if match is None:
                raise ValueError(f"dataset.root: {path} line {line}: no sample number in its question_id")
            # The options column is a Python list in quotes.
            listed = content.get("options")
            options = [str(option) for option in ast.literal_eval(listed)] if listed else []
            yield Row(int(match[1]), int(match[2]), {**content, "options": options})


# Published predictions of all parts.

WHAT = "the official output file (the annotation file with the model's answers in it)"
ANNOTATED = frozenset(
    "task_type question time_stamp answer options required_ability cause effect audio_path time results id "
    "ground_truth_time_stamp ground_truth_output question_id captions frames_required temporal_clue_type".split()
)
"""Keys of a question that belong to the annotation, in any of the official files."""
SEQUENTIAL = "Sequential Question Answering"
NAMES = {"real": "streamingbench", "sqa": "streamingbench_sqa", "proactive": "streamingbench_proactive"}
"""Part of StreamingBench: its name as a benchmark."""

Entry = Mapping[str, Any]
"""A question as it stands in a prediction file."""


def read_output_file(path: Path, benchmark: str, part: str, model: str | None = None) -> Imported:
    """All questions of an output file, with the answers under the key ``model`` (``None``: the only one there is).

    Raises ``ValueError`` for another file, and where the model must be named.
    """
    files = json_files(path, WHAT)
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ValueError(f"predictions={path}: several files ({names}); give one of them")
    file = files[0]
    entries = list(_entries(load_json(file), part, file))
    key = model or _model_key([question for _, question in entries], file)
    if not any(key in question for _, question in entries):
        raise ValueError(f"model={key}: no question in {file} has an answer under this name; {_keys(entries)}")
    # Questions get the ids of the annotation file: numbered within their video, in file order.
    counts: Counter[str] = Counter()
    predictions = []
    for video_path, question in entries:
        match = SAMPLE.search(video_path)
        video = f"sample_{match[1]}" if match else Path(video_path).stem
        counts[video] += 1
        stream_id = f"{video}_{part}" if match else video
        predictions.append(_prediction(question, question.get(key, MISSING), stream_id, f"{video}_{counts[video]}"))
    return Imported(benchmark, file.stem, (file,), tuple(predictions), (f"answers are those under '{key}'",))


def part_of_file(content: Any) -> str | None:
    """The part that the content of a file belongs to, by its first question; ``None`` for another layout."""
    entry = content
    while isinstance(entry, list) and entry:
        entry = entry[0]
    questions = entry.get("questions") if isinstance(entry, Mapping) else None
    if not isinstance(questions, list) or not questions or not isinstance(questions[0], Mapping):
        return None
    return _part_of(questions[0])


def _part_of(question: Entry) -> str:
    if "ground_truth_output" in question:
        return "proactive"
    return "sqa" if question.get("task_type") == SEQUENTIAL else "real"


def _entries(content: Any, part: str, file: Path) -> Iterator[tuple[str, Entry]]:
    """Video path and question, in file order."""
    if isinstance(content, dict) and {"backward", "realtime", "forward"} & set(content):
        raise ValueError(f"predictions={file}: this is a file of OVO-Bench: benchmark=ovobench")
    if not isinstance(content, list) or not content:
        raise ValueError(f"predictions={file}: no list of questions in it; give {WHAT}")
    for number, item in enumerate(content):
        for entry in item if isinstance(item, list) else [item]:
            if not isinstance(entry, Mapping) or not isinstance(entry.get("questions"), list):
                raise ValueError(f"predictions={file}: entry {number} has no list of questions; give {WHAT}")
            for question in entry["questions"]:
                _check(question, part, f"{file}: entry {number}")
                yield str(entry.get("video_path", f"entry_{number}")), question


def _check(question: Any, part: str, where: str) -> None:
    if not isinstance(question, Mapping):
        raise ValueError(f"predictions: {where}: a question is no object")
    found = _part_of(question)
    if found != part:
        raise ValueError(f"benchmark={NAMES[part]}: {where} has questions of benchmark={NAMES[found]}")
    needed = ("ground_truth_output", "ground_truth_time_stamp") if found == "proactive" else ("answer",)
    missing = [key for key in ("question", *needed) if key not in question]
    if missing:
        raise ValueError(f"predictions: {where}: a question has no {' and no '.join(missing)}")


def _model_key(questions: list[Entry], file: Path) -> str:
    counts = Counter(key for question in questions for key in question if key not in ANNOTATED)
    if not counts:
        raise ValueError(f"predictions={file}: no question has an answer of a model; is it the annotation file?")
    if len(counts) > 1:
        raise ValueError(
            f"predictions={file}: several keys may be the model's ({', '.join(sorted(counts))}); say which: model=KEY"
        )
    return next(iter(counts))


def _keys(entries: list[tuple[str, Entry]]) -> str:
    names = sorted({key for _, question in entries for key in question} - ANNOTATED)
    return f"there are {', '.join(names)}" if names else "there are none at all; is it the annotation file?"


def _prediction(question: Entry, response: Any, stream_id: str, question_id: str) -> Prediction:
    stamp = question.get("time_stamp")
    asked = Prediction(
        stream_id=stream_id,
        question_id=question_id,
        task=str(question.get("task_type", "")),
        group="",
        question=question["question"],
        answer=str(question.get("answer", question.get("ground_truth_output"))).strip(),
        text=None,
        time_s=seconds(stamp) if isinstance(stamp, str) and ":" in stamp else None,
        options=plain(question["options"]) if question.get("options") else (),
    )
    if "ground_truth_output" in question:
        return _proactive(asked, question, response)
    text, reason = text_of(response[0] if isinstance(response, list) and response else response)
    return replace(asked, text=text, reason=reason)


def _proactive(asked: Prediction, question: Entry, response: Any) -> Prediction:
    """The last turn of the dialogue counts: its time is when the model answered, its content what."""
    asked = replace(asked, meta={"ground_truth_time_s": seconds(question["ground_truth_time_stamp"])})
    history = response.get("dialog_history") if isinstance(response, Mapping) else None
    if not history:
        _, reason = text_of(response if not isinstance(response, (Mapping, str)) else None)
        return replace(asked, reason="the dialogue is empty" if isinstance(response, Mapping) else reason)
    last = history[-1]
    text, reason = text_of(last.get("content", MISSING))
    return replace(asked, text=text, reason=reason, details={"answered_s": last.get("time")})

"""``dataset=ovobench``: OVO-Bench (arXiv:2501.05510), 644 videos, questions about past, present and what is to come.

Prompts: ``constant.py`` and ``utils/OVOBench.py`` of github.com/JoeLeelyf/OVO-Bench; rule: ``utils/OVOBenchScore.py``.
Published predictions: ``MODEL_TASKS_offline.json``, each with backward, realtime and forward items.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from stc_lab.answers import read_count, read_yes_no
from stc_lab.benchmarks.base import Item, OfficialBenchmark, find_annotation, read_json
from stc_lab.benchmarks.predictions import (
    MISSING,
    Imported,
    Prediction,
    json_files,
    load_json,
    text_of,
    with_unique_ids,
)
from stc_lab.benchmarks.rules import LETTERS, Asked, Rule, read_option
from stc_lab.types import Question

COUNTING = ("REC",)
YES_OR_NO = ("SSR", "CRR")
GROUPS = {
    "backward": ("EPM", "ASI", "HLD"),
    "realtime": ("OCR", "ACR", "ATR", "STU", "FPD", "OJR"),
    "forward": (*COUNTING, *YES_OR_NO),
}
GROUP_OF_TASK = {task: group for group, tasks in GROUPS.items() for task in tasks}
SIZES = {
    **{"EPM": 297, "ASI": 148, "HLD": 186},
    **{"OCR": 149, "ACR": 109, "ATR": 116, "STU": 178, "FPD": 101, "OJR": 184},
    **{"REC": 698, "SSR": 629, "CRR": 240},
}

# Prompts to the letter, misspellings and curly quotes included; frozen by the files in tests/benchmarks/prompts.
ANSWER_YES_OR_NO = "Answer only with \u201cYes\u201d or \u201cNo\u201d.\n"
NOTHING_ELSE = "Do not include any additional text or explanation in your response.\n"
PROMPT_CHOICE = (
    "\nQuestion: {}\nOptions:\n{};\n\n"
    "Respond only with the letter corresponding to your chosen option (e.g., A, B, C). \n" + NOTHING_ELSE
)
PROMPT_REC = (
    "\nYou're watching a video in which people may perform a certain type of action repetively. \n"
    "The person performing this kind of action are referred to as 'they' in the following statement.\n"
    "You're task is to count how many times have different people in the video perform this kind of action in total.\n"
    "One complete motion counts as one. \n"
    "Now, answer the following question: {}\n"
    "Provide your answer as a single number (e.g., 0, 1, 2, 3\u2026) indicating the total count.\n" + NOTHING_ELSE
)
PROMPT_SSR = (
    "\nYou're watching a tutorial video which contain a sequential of steps. \n"
    "The following is one step from the whole procedures: \n{}\n"
    "Your task is to determine if the man or woman in the video is currently performing this step.\n"
    + ANSWER_YES_OR_NO
    + NOTHING_ELSE
)
PROMPT_CRR = (
    "\nYou're responsible of answering questions based on the video content. \n"
    "The following question are relevant to the latest frames, i.e. the end of the video.\n{}\n"
    "Decide whether existing visual content, especially latest frames, i.e. frames that near the end of the video, "
    "provide enough information for answering the question.\n" + ANSWER_YES_OR_NO + NOTHING_ELSE
)


# The rule. As officially, the probes of all items of a forward task are pooled, a group is the plain mean of its tasks,
# and the total is the mean of the three groups.


def is_right(asked: Asked, text: str, details: Mapping[str, Any] | None = None) -> bool:
    """The official rule; ``asked.answer`` is a letter, a number, or ``Yes`` or ``No``."""
    if asked.task in COUNTING:
        return "".join(re.findall(r"\d+", text)) == asked.answer
    if asked.task in YES_OR_NO and text == asked.answer[0]:
        return True
    return asked.answer in text


def read_strictly(asked: Asked, text: str) -> str | None:
    """The strict reading: a number, yes or no, or the letter of an option."""
    if asked.task in COUNTING:
        return read_count(text)
    if asked.task in YES_OR_NO:
        return read_yes_no(text)
    return read_option(asked, text)


@dataclass(frozen=True, kw_only=True)
class OVOBench(OfficialBenchmark):
    """The 1,640 items of ``ovo_bench_new.json``.

    Backward and real-time items are one multiple-choice question at ``realtime``. Forward items are asked once per
    entry of ``test_info``: REC a number, SSR and CRR yes or no. ``round_up`` asks at the next whole second, where the
    official clips end, which shows up to a second of the future.
    """

    round_up: bool = False
    name: str = "ovobench"

    annotations: ClassVar[tuple[str, ...]] = ("ovo_bench_new.json", "*/ovo_bench_new.json")
    rule: ClassVar[Rule] = Rule(
        name="ovobench",
        official=is_right,
        strict=read_strictly,
        official_words=(
            "the gold letter occurs anywhere in the text; REC: all digits of the text, put together, are the count; "
            "SSR, CRR: Yes or No occurs in the text, or the text is Y or N"
        ),
        strict_words="the text starts with one letter, has one number, or starts with yes or no",
        source="github.com/JoeLeelyf/OVO-Bench, utils/OVOBenchScore.py",
        average="groups",
        sizes=SIZES,
        groups=GROUPS,
    )

    def items(self) -> Iterator[Item]:
        """One item per question or probe; question ids are ``ID`` and ``ID_PROBE`` with the official numbers."""
        for entry in read_json(find_annotation(self.root, self.annotations)):
            video = entry["video"]
            asked = forward_questions(entry) if "test_info" in entry else [choice_question(entry)]
            for question in asked:
                if self.round_up:
                    question = replace(question, time_s=float(math.ceil(question.time_s)))
                yield Item(video, (video, f"src_videos/{video}"), question)

    @classmethod
    def is_prediction_file(cls, content: Any) -> bool:
        """Whether it has one of the three sections."""
        return isinstance(content, dict) and any(isinstance(content.get(group), list) for group in GROUPS)

    @classmethod
    def read_predictions(cls, path: Path, model: str | None = None, unwrap_lists: bool = False) -> Imported:
        """All answers in a folder of prediction files, or in one of them; each has the answers of one model.

        ``unwrap_lists`` reads a list with one text as this text, which the official script does not.
        """
        items, files, notes = [], [], []
        for file in json_files(path, WHAT):
            content = load_json(file)
            if not cls.is_prediction_file(content):
                notes.append(f"{file.name} is left out: it has none of {', '.join(GROUPS)}")
                continue
            files.append(file)
            items += [item for group in GROUPS for item in _section(content.get(group), group, file, unwrap_lists)]
        if not items:
            raise ValueError(f"predictions={path}: no answers to OVO-Bench in it{_what_it_is(path)}; give {WHAT}")
        num_lists = sum(item.reason == text_of([])[1] for item in items)
        if num_lists:
            notes.append(f"{num_lists} responses are lists; unwrap_lists=true reads lists with one text as that text")
        predictions, repeated = with_unique_ids(items)
        name = path.stem if path.is_file() else path.resolve().name
        return Imported(cls.name, name, tuple(files), predictions, (*notes, *repeated), has_official_ids=True)


# Annotations.


def choice_question(entry: Mapping[str, Any]) -> Question:
    """A backward or real-time item; officially the options stand in one line, ``A. x; B. y;``."""
    listed = "; ".join(f"{letter}. {option}" for letter, option in zip(LETTERS, entry["options"], strict=False))
    return Question(
        question_id=str(entry["id"]),
        time_s=float(entry["realtime"]),
        text=entry["question"],
        options=tuple(entry["options"]),
        answer=LETTERS[entry["gt"]],
        task=entry["task"],
        group=GROUP_OF_TASK[entry["task"]],
        meta={"item": entry["id"]},
        prompt=PROMPT_CHOICE.format(entry["question"], listed),
    )


def forward_questions(entry: Mapping[str, Any]) -> list[Question]:
    """The probes of a forward item."""
    task = entry["task"]
    asked = []
    for number, probe in enumerate(entry["test_info"]):
        if task == "REC":
            text, prompt = f"How many times did they {entry['activity']}?", PROMPT_REC
        elif task == "SSR":
            text, prompt = probe["step"], PROMPT_SSR
        else:
            text, prompt = entry["question"], PROMPT_CRR
        asked.append(
            Question(
                question_id=f"{entry['id']}_{number}",
                time_s=float(probe["realtime"]),
                text=text,
                answer=str(probe["count"]) if task in COUNTING else ("No", "Yes")[probe["type"]],
                task=task,
                group=GROUP_OF_TASK[task],
                meta={"item": entry["id"], "probe": number},
                prompt=prompt.format(text),
            )
        )
    return asked


# Published predictions.

WHAT = "the folder of one model's official per-task files (MODEL_TASKS_offline.json)"
SOURCES = (
    "AutoEvalMetaData", "COIN", "Ego4D", "MovieNet", "OpenEQA", "YouTube_Games",
    "cross_task", "hirest", "perception_test", "star", "thumos", "youcook2",
)  # fmt: skip
"""Top folders of the official videos."""


def video_name(path: str) -> str:
    """The official relative path of a video, without the folders of the machine it lay on."""
    parts = PurePosixPath(path.replace("\\", "/")).parts
    start = next((i for i, part in enumerate(parts) if part in SOURCES), None)
    if start is not None:
        return "/".join(parts[start:])
    return path.removeprefix("./").removeprefix("data/src_videos/")


def _section(items: Any, group: str, file: Path, unwrap: bool) -> Iterator[Prediction]:
    if not isinstance(items, (list, type(None))):
        raise ValueError(f"predictions: {file}: '{group}' is no list")
    for number, item in enumerate(items or []):
        where = f"{file}: {group} item {number}"
        if not isinstance(item, Mapping) or "task" not in item:
            raise ValueError(f"predictions: {where} has no task")
        if group == "forward":
            yield from _probes(item, where, unwrap)
        else:
            yield _choice(item, group, where, unwrap)


def _choice(item: Mapping[str, Any], group: str, where: str, unwrap: bool) -> Prediction:
    gold = item.get("ground_truth")
    if gold is None and isinstance(item.get("gt"), int):
        gold = LETTERS[item["gt"]]
    if not isinstance(gold, str):
        raise ValueError(f"predictions: {where} has no ground_truth")
    return _prediction(item, item, str(item.get("id", where)), gold, item.get("question", ""), group, unwrap)


def _probes(item: Mapping[str, Any], where: str, unwrap: bool) -> Iterator[Prediction]:
    task, probes = item["task"], item.get("test_info")
    if task not in GROUPS["forward"]:
        known = ", ".join(GROUPS["forward"])
        raise ValueError(f"predictions: {where}: unknown task '{task}'; forward tasks are {known}")
    if not isinstance(probes, list):
        raise ValueError(f"predictions: {where} has no test_info")
    gold_key = "count" if task in COUNTING else "type"
    for number, probe in enumerate(probes):
        if not isinstance(probe, Mapping) or gold_key not in probe:
            raise ValueError(f"predictions: {where}: probe {number} has no {gold_key}")
        gold = str(probe["count"]) if task in COUNTING else ("Yes", "No")[probe["type"] == 0]
        asked = str(probe.get("step") or item.get("question") or "")
        if task == "REC":
            asked = f"How many times did they {item.get('activity', '')}?"
        yield _prediction(item, probe, f"{item.get('id', where)}_{number}", gold, asked, "forward", unwrap)


def _prediction(
    item: Mapping[str, Any], said: Mapping[str, Any], question_id: str, gold: str, asked: str, group: str, unwrap: bool
) -> Prediction:
    response = said.get("response", MISSING)
    if unwrap and isinstance(response, list) and len(response) == 1:
        response = response[0]
    text, reason = text_of(response)
    time_s = said.get("realtime")
    return Prediction(
        stream_id=video_name(str(item.get("video") or f"item_{item.get('id')}")),
        question_id=question_id,
        task=str(item["task"]),
        group=group,
        question=asked,
        answer=gold,
        text=text,
        reason=reason,
        time_s=float(time_s) if isinstance(time_s, (int, float)) else None,
    )


def _what_it_is(path: Path) -> str:
    """A guess at what was given instead."""
    below = sorted({file.parent.name for file in path.glob("*/*.json")}) if path.is_dir() else []
    if below:
        return f"; it holds the folders {', '.join(below)}, one of which may be meant"
    content = load_json(json_files(path, WHAT)[0])
    first = content[0] if isinstance(content, list) and content else None
    if isinstance(first, dict) and "questions" in first:
        return " (it looks like StreamingBench: benchmark=streamingbench)"
    if isinstance(first, dict) and "task" in first:
        return " (it looks like the annotation file)"
    return ""

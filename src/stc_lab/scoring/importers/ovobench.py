"""Prediction files of OVO-Bench: ``MODEL_TASKS_offline.json``, each with backward, realtime and forward items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from stc_lab.scoring.importers.base import (
    MISSING,
    Imported,
    Prediction,
    json_files,
    load_json,
    text_of,
    with_unique_ids,
)
from stc_lab.scoring.rule import LETTERS
from stc_lab.scoring.rules.ovobench import COUNTING, GROUPS

WHAT = "the folder of one model's official per-task files (MODEL_TASKS_offline.json)"
SOURCES = (
    "AutoEvalMetaData", "COIN", "Ego4D", "MovieNet", "OpenEQA", "YouTube_Games",
    "cross_task", "hirest", "perception_test", "star", "thumos", "youcook2",
)  # fmt: skip
"""Top folders of the official videos."""


def read_predictions(path: Path, unwrap: bool = False) -> Imported:
    """All answers in a folder of prediction files, or in one of them.

    ``unwrap`` reads a list with one text as this text, which the official script does not. Raises ``ValueError`` for
    anything else than prediction files of OVO-Bench.
    """
    items, files, notes = [], [], []
    for file in json_files(path, WHAT):
        content = load_json(file)
        if not has_sections(content):
            notes.append(f"{file.name} is left out: it has none of {', '.join(GROUPS)}")
            continue
        files.append(file)
        items += [item for group in GROUPS for item in _section(content.get(group), group, file, unwrap)]
    if not items:
        raise ValueError(f"predictions={path}: no answers to OVO-Bench in it{_what_it_is(path)}; give {WHAT}")
    num_lists = sum(item.reason == text_of([])[1] for item in items)
    if num_lists:
        notes.append(f"{num_lists} responses are lists; unwrap_lists=true reads lists with one text as that text")
    predictions, repeated = with_unique_ids(items)
    name = path.stem if path.is_file() else path.resolve().name
    return Imported("ovobench", name, tuple(files), predictions, (*notes, *repeated))


def has_sections(content: Any) -> bool:
    """Whether the content of a file has the layout of OVO-Bench's prediction files."""
    return isinstance(content, dict) and any(isinstance(content.get(group), list) for group in GROUPS)


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
        question_id = f"{item.get('id', where)}_{number}"
        yield _prediction(item, probe, question_id, gold, _asked(item, probe), "forward", unwrap)


def _asked(item: Mapping[str, Any], probe: Mapping[str, Any]) -> str:
    if item["task"] == "REC":
        return f"How many times did they {item.get('activity', '')}?"
    return str(probe.get("step") or item.get("question") or "")


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

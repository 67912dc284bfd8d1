"""Prediction files of StreamingBench: the annotation file with the model's answer added to every question.

The answer stands under the name of the model, whatever that is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stc_lab.benchmarks.options import plain
from stc_lab.benchmarks.streamingbench_files import seconds
from stc_lab.scoring.importers.base import MISSING, Imported, Prediction, json_files, load_json, text_of

WHAT = "the official output file (the annotation file with the model's answers in it)"
ANNOTATED = frozenset(
    "task_type question time_stamp answer options required_ability cause effect audio_path time results id "
    "ground_truth_time_stamp ground_truth_output question_id captions frames_required temporal_clue_type".split()
)
"""Keys of a question that belong to the annotation, in any of the official files."""

SAMPLE = re.compile(r"sample_(\d+)")
PARTS = {"streamingbench": "real", "streamingbench_sqa": "sqa", "streamingbench_proactive": "proactive"}
SEQUENTIAL = "Sequential Question Answering"

Question = Mapping[str, Any]


def read_predictions(path: Path, benchmark: str, model: str | None = None) -> Imported:
    """All questions of an output file, with the answers under the key ``model`` (``None``: the only one there is).

    Raises ``ValueError`` for another file, and where the model must be named.
    """
    file = _only_file(path)
    content = load_json(file)
    entries = list(_entries(content, benchmark, file))
    key = model or _model_key([question for _, question in entries], file)
    if not any(key in question for _, question in entries):
        raise ValueError(f"model={key}: no question in {file} has an answer under this name; {_keys(entries)}")
    predictions = tuple(_numbered(entries, key, benchmark))
    return Imported(benchmark, file.stem, (file,), predictions, (f"answers are those under '{key}'",))


def part_of(content: Any) -> str | None:
    """The benchmark that the content of a file belongs to, by its first question; ``None`` for another layout."""
    entry = content
    while isinstance(entry, list) and entry:
        entry = entry[0]
    questions = entry.get("questions") if isinstance(entry, Mapping) else None
    if not isinstance(questions, list) or not questions or not isinstance(questions[0], Mapping):
        return None
    return _part_of_question(questions[0])


def _part_of_question(question: Question) -> str:
    if "ground_truth_output" in question:
        return "streamingbench_proactive"
    return "streamingbench_sqa" if question.get("task_type") == SEQUENTIAL else "streamingbench"


def _only_file(path: Path) -> Path:
    files = json_files(path, WHAT)
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ValueError(f"predictions={path}: several files ({names}); give one of them")
    return files[0]


def _entries(content: Any, benchmark: str, file: Path) -> Iterator[tuple[str, Question]]:
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
                _check(question, benchmark, f"{file}: entry {number}")
                yield str(entry.get("video_path", f"entry_{number}")), question


def _check(question: Any, benchmark: str, where: str) -> None:
    if not isinstance(question, Mapping):
        raise ValueError(f"predictions: {where}: a question is no object")
    found = _part_of_question(question)
    if found != benchmark:
        raise ValueError(f"benchmark={benchmark}: {where} has questions of benchmark={found}")
    is_proactive = found == "streamingbench_proactive"
    needed = ("ground_truth_output", "ground_truth_time_stamp") if is_proactive else ("answer",)
    missing = [key for key in ("question", *needed) if key not in question]
    if missing:
        raise ValueError(f"predictions: {where}: a question has no {' and no '.join(missing)}")


def _model_key(questions: list[Question], file: Path) -> str:
    counts = Counter(key for question in questions for key in question if key not in ANNOTATED)
    if not counts:
        raise ValueError(f"predictions={file}: no question has an answer of a model; is it the annotation file?")
    if len(counts) > 1:
        raise ValueError(
            f"predictions={file}: several keys may be the model's ({', '.join(sorted(counts))}); say which: model=KEY"
        )
    return next(iter(counts))


def _keys(entries: list[tuple[str, Question]]) -> str:
    names = sorted({key for _, question in entries for key in question} - ANNOTATED)
    return f"there are {', '.join(names)}" if names else "there are none at all; is it the annotation file?"


def _numbered(entries: list[tuple[str, Question]], key: str, benchmark: str) -> Iterator[Prediction]:
    counts: Counter[str] = Counter()
    for video_path, question in entries:
        match = SAMPLE.search(video_path)
        video = f"sample_{match[1]}" if match else Path(video_path).stem
        counts[video] += 1
        stream_id = f"{video}_{PARTS[benchmark]}" if match else video
        yield _prediction(question, question.get(key, MISSING), stream_id, f"{video}_{counts[video]}")


def _prediction(question: Question, response: Any, stream_id: str, question_id: str) -> Prediction:
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
    return _with(asked, text=text, reason=reason)


def _proactive(asked: Prediction, question: Question, response: Any) -> Prediction:
    """The last turn of the dialogue counts: its time is when the model answered, its content what."""
    meta = {"ground_truth_time_s": seconds(question["ground_truth_time_stamp"])}
    history = response.get("dialog_history") if isinstance(response, Mapping) else None
    if not history:
        _, reason = text_of(response if not isinstance(response, (Mapping, str)) else None)
        reason = "the dialogue is empty" if isinstance(response, Mapping) else reason
        return _with(asked, reason=reason, meta=meta)
    last = history[-1]
    text, reason = text_of(last.get("content", MISSING))
    return _with(asked, text=text, reason=reason, meta=meta, details={"answered_s": last.get("time")})


def _with(asked: Prediction, **changes: Any) -> Prediction:
    return Prediction(**{**vars(asked), **changes})

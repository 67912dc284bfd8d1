"""Small prediction files in the official layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BACKWARD = [("EPM", "A"), ("ASI", "B"), ("HLD", "C")]
REALTIME = [("OCR", "A"), ("ACR", "B"), ("ATR", "C"), ("STU", "D"), ("FPD", "A"), ("OJR", "B")]


def ovo_choice(number: int, task: str, gold: str, **response: Any) -> dict[str, Any]:
    video = f"data/src_videos/COIN/v{number % 7}.mp4"
    return {"id": number, "video": video, "task": task, "question": "Which?", "ground_truth": gold, **response}


def ovo_forward(number: int, task: str, probes: list[dict[str, Any]]) -> dict[str, Any]:
    video = f"data/src_videos/COIN/v{number % 7}.mp4"
    item = {"id": number, "task": task, "video": video, "test_info": probes}
    if task == "REC":
        return {**item, "activity": "clap"}
    return item if task == "SSR" else {**item, "question": "What happens then?", "answer": "nothing"}


def ovo_sections() -> dict[str, list[dict[str, Any]]]:
    """All twelve tasks; every answer is right."""
    backward = [ovo_choice(i, task, gold, response=gold) for i, (task, gold) in enumerate(BACKWARD * 4)]
    realtime = [ovo_choice(100 + i, task, gold, response=f"{gold}.") for i, (task, gold) in enumerate(REALTIME * 2)]
    forward = [
        ovo_forward(200, "REC", [{"realtime": 3 * k, "count": k, "response": f"{k} times"} for k in range(3)]),
        ovo_forward(201, "SSR", [{"realtime": 5, "type": 0, "step": "stir", "response": "No"}]),
        ovo_forward(202, "SSR", [{"realtime": 5, "type": 1, "step": "stir", "response": "Y"}]),
        ovo_forward(203, "CRR", [{"realtime": 9, "type": 1, "response": "Yes."}]),
    ]
    return {"backward": backward, "realtime": realtime, "forward": forward}


def write_ovo(folder: Path, sections: dict[str, list[dict[str, Any]]], split: bool = True) -> Path:
    """One file per section as officially, each with the other sections empty."""
    folder.mkdir(parents=True, exist_ok=True)
    empty = {group: [] for group in sections}
    parts = {group: {**empty, group: items} for group, items in sections.items()} if split else {"ALL": sections}
    for name, content in parts.items():
        (folder / f"M_{name}_offline.json").write_text(json.dumps(content))
    return folder


def streaming_question(number: int, gold: str = "B", **answer: Any) -> dict[str, Any]:
    options = ["A. a cat.", "B. a dog.", "C. a cow.", "D. a hen."]
    stamp = f"00:00:{number % 60:02d}"
    return {"task_type": "Counting", "question": f"Which {number}?", "time_stamp": stamp, "answer": gold,
            "options": options, **answer}  # fmt: skip


def write_streaming(file: Path, questions: list[dict[str, Any]], per_video: int = 2, part: str = "real") -> Path:
    """Questions about samples 1, 2, ... in the layout of the official output file."""
    samples = [questions[i : i + per_video] for i in range(0, len(questions), per_video)]
    content = [
        {"time": "[0:00:00 - 0:01:00]", "questions": asked, "video_path": f"./videos/sample_{number}_{part}.mp4"}
        for number, asked in enumerate(samples, 1)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([content] if part == "sqa" else content))
    return file

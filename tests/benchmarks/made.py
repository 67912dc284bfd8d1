"""Benchmarks in miniature: a few made-up questions and noisy clips, in the files and folders of the official ones."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

SECONDS = 6
NATIVE_FPS = 4
SIZE = 108


def write_video(path: Path, seed: int, seconds: int = SECONDS) -> None:
    """Noise on a drifting grey, so that no two frames are equal."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=NATIVE_FPS)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for number in range(seconds * NATIVE_FPS):
            pixels = rng.integers(0, 60, (SIZE, SIZE, 3)) + 40 + (37 * seed + 3 * number) % 150
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels.astype(np.uint8), format="rgb24")))
        container.mux(stream.encode(None))


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


OVO_CHOICE = {
    "question": "What did they paint?", "options": ["a door", "a boat", "a fence"], "answer": "a boat", "gt": 1,
}  # fmt: skip
OVO = [
    {"id": 7, "task": "EPM", "video": "Ego4D/clips/a.mp4", "realtime": 4, **OVO_CHOICE},
    {"id": 8, "task": "OJR", "video": "Ego4D/clips/a.mp4", "realtime": 1.4, **OVO_CHOICE},
    {"id": 20, "task": "CRR", "video": "MovieNet/b.mp4", "question": "Where does he go?", "answer": "home",
     "ask_time": 2, "clue_time": 4, "test_info": [{"realtime": 2, "type": 0}, {"realtime": 5, "type": 1}]},
    {"id": 21, "task": "SSR", "video": "MovieNet/b.mp4", "tutorial": "PaintBoat", "all_steps": ["mix the paint"],
     "start_time": [1], "end_time": [3], "test_info": [{"realtime": 3, "step": "mix the paint", "type": 1}]},
    {"id": 22, "task": "REC", "video": "thumos/c.mp4", "activity": "jump", "start_times": [0], "end_times": [2],
     "test_info": [{"realtime": 2.5, "count": 1}, {"realtime": 5, "count": 2}]},
]  # fmt: skip

REAL_CHOICE = {
    "task_type": "Counting", "question": "How many boats are there?", "answer": "C",
    "options": ["A. One.", "B. Two.", "C. Three.", "D. Four."], "required_ability": "working memory",
}  # fmt: skip
REAL = [
    {"time": "[0:00:00 - 0:00:03]", "video_path": "./videos/sample_3_real.mp4", "video_categories": "boats",
     "questions": [{**REAL_CHOICE, "time_stamp": "00:00:02"}, {**REAL_CHOICE, "time_stamp": "0:00:05"}]},
    {"time": "[0:00:00 - 0:00:03]", "video_path": "./videos/sample_12_real.mp4", "video_categories": "boats",
     "questions": [{**REAL_CHOICE, "task_type": "Clips Summarize", "time_stamp": "00:4"}]},
    {"time": "[0:00:03 - 0:00:06]", "video_path": "./videos/sample_3_real.mp4", "video_categories": "boats",
     "questions": [{**REAL_CHOICE, "time_stamp": "00:00:03"}]},
]  # fmt: skip

SQA_CHOICE = {"task_type": "Sequential Question Answering", "required_ability": "episodic memory"}
SQA = [
    [
        {"time": "[0:00:00 - 0:00:02]", "video_path": "./videos/sample_1_sqa.mp4", "video_categories": "boats",
         "questions": [{**SQA_CHOICE, "question": "Who rows?", "time_stamp": "00:00:02", "answer": "B",
                        "options": ["Ann.", "Bob.", "Cem.", "Dan."]}]},
        {"time": "[0:00:02 - 0:00:05]", "video_path": "./videos/sample_1_sqa.mp4", "video_categories": "boats",
         "questions": [{**SQA_CHOICE, "question": "What did the person in the last question lose?", "answer": "D",
                        "time_stamp": "00:00:05", "options": ["A. Hat.", "B. Oar.", "C. Map.", "D. Rope."]}]},
    ]
]  # fmt: skip

PROACTIVE = [
    {"time": "[0:00:00 - 0:00:06]", "video_path": "./videos/sample_2_proactive.mp4", "video_categories": "boats",
     "questions": [{"task_type": "Proactive Output", "question": 'When the boat lands, output "Land".',
                    "time_stamp": "00:00:01", "ground_truth_time_stamp": "00:00:02", "ground_truth_output": "Land",
                    "required_ability": "working memory"}]},
    {"time": "[0:00:02 - 0:00:06]", "video_path": "./videos/sample_2_proactive.mp4", "video_categories": "boats",
     "questions": [{"task_type": "Proactive Output", "question": 'When it rains, output "Rain".',
                    "time_stamp": "00:00:02", "ground_truth_time_stamp": "00:00:02", "ground_truth_output": "Rain",
                    "required_ability": "working memory"}]},
]  # fmt: skip

MLVU_FILES = (
    "1_plotQA", "2_needle", "3_ego", "4_count", "5_order", "6_anomaly_reco", "7_topic_reasoning",
)  # fmt: skip

VIDEOMME = {
    "video_id": "001", "duration": "short", "domain": "Knowledge", "sub_category": "Boats", "url": "none",
    "videoID": "x_Y-1", "question_id": "001-1", "task_type": "Counting Problem", "question": "How many boats?",
    "options": ["A. One.", "B. Two.", "C. Three.", "D. Four."], "answer": "A",
}  # fmt: skip

SUBTITLES = """1
00:00:00,200 --> 00:00:01,500
<font color="white" size=".72c">never on a frame read every two seconds</font>

2
00:00:01,900 --> 00:00:03,000
Row, row,
<i>row your boat</i>

3
00:00:03,100 --> 00:00:03,200

"""


def make_ovobench(root: Path, with_videos: bool = True) -> dict[str, str]:
    """Settings of ``dataset=ovobench`` after writing its files below ``root``; so for the others."""
    write_json(root / "ovo_bench_new.json", OVO)
    return _settings(root, [entry["video"] for entry in OVO], with_videos)


def make_streamingbench(root: Path, with_videos: bool = True) -> dict[str, str]:
    write_json(root / "questions_real.json", REAL)
    return _settings(root, ["sample_3_real.mp4", "sample_12_real.mp4"], with_videos)


def make_hub_csv(root: Path) -> None:
    """The real-time questions as the hub has them."""
    names = (
        "question_id", "task_type", "question", "time_stamp", "answer", "options", "frames_required",
        "temporal_clue_type",
    )  # fmt: skip
    rows = [
        {"question_id": "Real-Time Visual Understanding_sample_3_1", **REAL_CHOICE, "time_stamp": "00:00:02"},
        {"question_id": "Real-Time Visual Understanding_sample_3_2", **REAL_CHOICE, "time_stamp": "00:05"},
        {"question_id": "Real-Time Visual Understanding_sample_12_1", **REAL_CHOICE, "time_stamp": "00:00:04"},
    ]
    root.mkdir(parents=True, exist_ok=True)
    with (root / "Real_Time_Visual_Understanding.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, "options": str(row["options"])} for row in rows)


def make_streamingbench_sqa(root: Path, with_videos: bool = True) -> dict[str, str]:
    write_json(root / "questions_sqa.json", SQA)
    return _settings(root, ["videos/sample_1_sqa.mp4"], with_videos)


def make_streamingbench_proactive(root: Path, with_videos: bool = True) -> dict[str, str]:
    write_json(root / "questions_proactive.json", PROACTIVE)
    return _settings(root, ["sample_2/video.mp4"], with_videos)


def make_mlvu(root: Path, with_videos: bool = True) -> dict[str, str]:
    for number, name in enumerate(MLVU_FILES):
        entry = {"video": f"m{number % 2}.mp4", "duration": 6.0, "question": "What floats?",
                 "candidates": ["a boat", "a stone", "a boat", "iron"], "answer": "a boat", "question_type": name}
        lost = {**entry, "answer": "a small boat"}
        write_json(root / f"{name}.json", [entry, lost] if name == "2_needle" else [entry])
    return _settings(root, [f"{name}/m{number % 2}.mp4" for number, name in enumerate(MLVU_FILES)], with_videos)


def make_egoschema(root: Path, with_videos: bool = True) -> dict[str, str]:
    options = {f"option {number}": f"c does {number}" for number in range(5)}
    ids = ["aa-1", "bb-2"]
    write_json(root / "questions.json", [{"q_uid": name, "question": "What does c do?", **options} for name in ids])
    write_json(root / "subset_answers.json", {"aa-1": 4})
    return _settings(root, ["aa-1.mp4"], with_videos)


def make_videomme(root: Path, with_videos: bool = True) -> dict[str, str]:
    rows = [VIDEOMME, {**VIDEOMME, "question_id": "001-2", "question": "Which boat?"},
            {**VIDEOMME, "question_id": "301-1", "duration": "medium", "videoID": "z"}]  # fmt: skip
    root.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), root / "test-00000-of-00001.parquet")
    (root / "subtitle").mkdir()
    (root / "subtitle" / "x_Y-1.srt").write_text(SUBTITLES, encoding="utf-8")
    return _settings(root, ["x_Y-1.mp4", "z.mp4"], with_videos)


MAKERS = {
    "ovobench": make_ovobench,
    "streamingbench": make_streamingbench,
    "streamingbench_sqa": make_streamingbench_sqa,
    "streamingbench_proactive": make_streamingbench_proactive,
    "mlvu": make_mlvu,
    "egoschema": make_egoschema,
    "videomme": make_videomme,
}


def _settings(root: Path, videos: list[str], with_videos: bool) -> dict[str, str]:
    folder = root / "clips"
    folder.mkdir(parents=True)
    for seed, video in enumerate(dict.fromkeys(videos)):
        if with_videos:
            write_video(folder / video, seed)
    return {"root": str(root), "videos": str(folder)}

"""Small videos with questions, and settings for a run over them with the fake backbone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # spawned processes and Hydra find fake_backbone by name

NATIVE_FPS = 8


def write_video(path: Path, seed: int, num_frames: int = 40, size: int = 48) -> None:
    """An mp4 of noise on a drifting grey, so that every frame is different."""
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=NATIVE_FPS)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for number in range(num_frames):
            pixels = rng.integers(0, 60, (size, size, 3)) + 40 + (37 * seed + 3 * number) % 150
            frame = av.VideoFrame.from_ndarray(pixels.astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Five videos of five seconds with three questions each, as settings of ``dataset=folder``."""
    folder = tmp_path_factory.mktemp("streams")
    rows = []
    for number in range(5):
        name = f"v{number}.mp4"
        write_video(folder / name, seed=number)
        for time_s in (1.0, 2.6, 4.5):
            rows.append(
                {"video": name, "time_s": time_s, "question": f"what at {time_s}?", "options": list("wxyz"),
                 "answer": "ABCD"[number % 4], "task": "now" if time_s < 2 else "past",
                 "question_id": f"v{number}@{time_s}"}
            )  # fmt: skip
    questions = folder / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"videos": str(folder), "questions": str(questions)}


@pytest.fixture()
def make_cfg(dataset: dict[str, str], tmp_path: Path) -> Callable[..., DictConfig]:
    """Settings of a run; keyword arguments with ``__`` for dots change them: ``make_cfg(pruner__budget=3)``."""

    def make(**changes) -> DictConfig:
        cfg = OmegaConf.create(
            {
                "seed": 0, "baseline": False, "retry_failed": False,
                "video": {"reader": "pyav", "timeout_s": 30.0},
                "measure": {"warmup_frames": 2, "warmup_questions": 1, "token_maps": 0},
                "trainer": {"accelerator": "cpu", "devices": 1, "strategy": "auto", "precision": "32-true",
                            "num_threads": None, "profiler": None},
                "paths": {"cache_dir": str(tmp_path / "cache")},
                "backbone": {"_target_": "fake_backbone.FakeBackbone", "name": "fake",
                             "tokens_per_frame": 9},
                "memory": {"_target_": "stc_lab.memories.recent.Recent", "name": "recent"},
                "cacher": {"_target_": "stc_lab.cachers.none.NoCacher", "name": "none"},
                "pruner": {"_target_": "stc_lab.pruners.uniform.UniformPruner", "name": "uniform", "budget": 4},
                "dataset": {"_target_": "stc_lab.benchmarks.folder.FolderBenchmark", "name": "folder", "fps": 2.0,
                            "limit": None, **dataset},
                "logger": {"name": "none"},
            }
        )  # fmt: skip
        for key, value in changes.items():
            OmegaConf.update(cfg, key.replace("__", "."), value)
        return cfg

    return make

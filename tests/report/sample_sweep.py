"""A sweep folder as a multirun leaves it, written by the project's own writers from made-up answers and times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from stc_lab.predict.resume import claim_run_folder
from stc_lab.results.records import RECORDS_FILE, Record, write_records, write_summary
from stc_lab.results.summary import summarize

TASKS = ("shape", "color", "<b>odd</b>")
FULL_TOKENS = 196
ENVIRONMENT = {
    "time": "2026-01-01T00:00:00+00:00", "command": "python -m stc_lab -m ...", "stc_lab": "0.1", "python": "3.11.7",
    "git": {"commit": "0123456789abcdef", "modified": False}, "platform": "Linux", "packages": {"torch": "2.13"},
    "cpu": {"model": "a processor", "num_cores": 2, "num_usable_cores": 2},
    "torch": {"num_threads": 2, "attention": {"implementation": "scaled_dot_product_attention"}},
}  # fmt: skip


def write_sweep(folder: Path, num_streams: int = 12) -> Path:
    """Two methods and two trivial baselines at three budgets, the uncompressed run, one failed, one unfinished run."""
    for pruner in ("stc", "random", "uniform"):
        for budget in (16, 64, 128):
            write_run(folder / f"pruner={pruner},pruner.budget={budget}", pruner, budget, num_streams=num_streams)
    for budget in (16, 64, 128):
        name = f"cacher=stc,pruner=stc,pruner.budget={budget}"
        write_run(folder / name, "stc", budget, cacher="stc", num_streams=num_streams)
    write_run(folder / "pruner=none", "none", FULL_TOKENS, num_streams=num_streams)
    failed = folder / "pruner=stc,pruner.budget=500"
    failed.mkdir()
    (failed / "error.json").write_text(json.dumps({"reason": "pruner.budget=500: a frame has 196 tokens <at most>"}))
    unfinished = write_run(folder / "pruner=uniform,pruner.budget=8", "uniform", 8, num_streams=num_streams)
    (unfinished / "summary.json").unlink()
    return folder


def write_run(
    folder: Path, pruner: str, budget: int, cacher: str = "none", num_streams: int = 12, backbone: str = "rekv",
    dataset: str = "pocket", **settings: Any,
) -> Path:  # fmt: skip
    """A finished run; its accuracy grows with the budget, and more slowly for the trivial pruners."""
    flat = {"backbone.name": backbone, "cacher.name": cacher, "pruner.name": pruner, "dataset.name": dataset,
            "pruner.num_tokens": budget, "dataset.fps": 1.0, "data_digest": f"{dataset}{num_streams}",
            **settings}  # fmt: skip
    fingerprint = claim_run_folder(folder, flat)
    records = make_records(fingerprint, pruner, budget, cacher, num_streams)
    write_records(folder / RECORDS_FILE, records)
    summary = {
        **summarize(records, budget),
        "run": {"backbone": backbone, "cacher": cacher, "pruner": pruner, "dataset": dataset},
        "settings": {"cacher": f"{cacher}()", "pruner": f"{pruner}(budget={budget})"},
        "fps": 1.0, "seed": 0, "device": "cpu", "device_name": "a processor", "precision": "32-true",
        "fingerprint": fingerprint,
    }  # fmt: skip
    write_summary(folder, summary)
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT))
    (folder / ".hydra").mkdir(exist_ok=True)
    overrides = [f"cacher={cacher}", f"pruner={pruner}", f"pruner.budget={budget}", "report.cost=tokens"]
    OmegaConf.save(OmegaConf.create(overrides), folder / ".hydra" / "overrides.yaml")
    return folder


def make_records(fingerprint: str, pruner: str, budget: int, cacher: str, num_streams: int) -> list[Record]:
    """Three questions per stream, one per task, eight seconds apart at one frame per second."""
    rng = np.random.default_rng([budget, len(pruner)])
    weakness = {"none": 0.0, "stc": 6.0}.get(pruner, 22.0)
    chance = 0.9 - weakness / (budget + 30)
    return [
        _record(fingerprint, stream, number, task, bool(rng.random() < chance), budget, cacher, rng)
        for stream in range(num_streams)
        for number, task in enumerate(TASKS)
    ]


def _record(
    fingerprint: str, stream: int, number: int, task: str, correct: bool, budget: int, cacher: str,
    rng: np.random.Generator,
) -> Record:  # fmt: skip
    noise = rng.uniform(0.9, 1.1, 8)
    is_reference = [cacher == "none" or index % 2 == 0 for index in range(8)]
    vision_ms = np.where(is_reference, 20.0, 9.0) * noise
    latency_ms = {
        "decode": [1.0] * 8, "preprocess": [0.5] * 8, "vision": vision_ms.tolist(), "project": [1.0] * 8,
        "prune": [0.2] * 8, "prefill": (0.12 * budget * noise).tolist(),
    }  # fmt: skip
    frames = {
        "timestamp_s": [8.0 * number + index for index in range(8)], "num_tokens": [budget] * 8,
        "num_tokens_full": [FULL_TOKENS] * 8, "is_reference": is_reference, "vision_batch_size": [1] * 8,
        "update_ratio": [1.0 if whole else 0.25 for whole in is_reference], "latency_ms": latency_ms,
        "flops": {"vision": [int(1e9 * ms) for ms in vision_ms], "prefill": [10**7 * budget] * 8},
        "num_warmup": 0, "wait_ms": 1.0, "start_ms": 1.0,
    }  # fmt: skip
    return Record(
        fingerprint=fingerprint, stream_id=f"s{stream:02d}", question_id=f"q{number}", task=task, group="",
        time_s=8.0 * (number + 1), question=f"what {task}?", options=["x", "y"], answer="A", status="answered",
        prediction="A" if correct else "B", correct=correct, text="A)", reader="generate", num_frames_seen=8,
        last_frame_time_s=7.0, frames=frames, latency_ms={"retrieve": 2.0, "question": 6.0, "generate": 9.0},
        flops={"generate": 10**8}, ttft_ms=float(8 + rng.random()), wall_ms=400.0,
        memory={"peak_mem_gib": 0.9, "kv_bytes_device": float(2**20 * budget / 8), "kv_bytes_host": 0.0},
    )  # fmt: skip

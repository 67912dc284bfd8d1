"""What a W&B run holds besides its settings: axes and knobs as summary scalars, records, token maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb
from omegaconf import DictConfig

from stc_lab.config import canonical
from stc_lab.results.records import RECORDS_FILE, Record, read_records

TABLE_COLUMNS = (
    *("stream_id", "question_id", "task", "group", "time_s", "question", "options", "answer", "prediction"),
    *("correct", "status", "reason", "text", "num_frames_seen", "ttft_ms"),
)
KNOB_GROUPS = ("backbone", "cacher", "pruner", "dataset")
MOST_MAPS = 16
MEDIA_KINDS = {".png": wandb.Image, ".gif": wandb.Video, ".mp4": wandb.Video}


def fill_run(run: wandb.Run, cfg: DictConfig, summary: Mapping[str, Any], run_dir: Path | None) -> None:
    """Add to an open run all that a report about it can ask for."""
    run.summary.update({**axis_scalars(summary), **knob_scalars(cfg)})
    if run_dir is None:
        return
    records = read_records(run_dir / RECORDS_FILE)
    run.log({"records": record_table(records), **_token_maps(run_dir)})
    artifact = wandb.Artifact(f"records-{run.id}", type="records", metadata={"fingerprint": summary.get("fingerprint")})
    artifact.add_file(str(run_dir / RECORDS_FILE))
    run.log_artifact(artifact)


def axis_scalars(summary: Mapping[str, Any]) -> dict[str, float]:
    """Every number that a frontier is drawn from, under one flat name; those that a run lacks are left out."""
    low, high = summary.get("accuracy_ci95") or (None, None)
    frame_ms, ttft_ms, kv_bytes = (summary.get(key) or {} for key in ("frame_ms", "ttft_ms", "kv_bytes"))
    held = [size for size in kv_bytes.values() if size is not None]
    flops = summary.get("flops_per_frame") or {}
    tokens = summary.get("tokens_per_frame") or {}
    values = {
        "axis/accuracy": summary.get("accuracy"), "axis/accuracy_low": low, "axis/accuracy_high": high,
        "axis/coverage": summary.get("coverage"), "axis/frame_ms": frame_ms.get("mean"),
        "axis/frame_ms_p90": frame_ms.get("p90"), "axis/ttft_ms": ttft_ms.get("median"),
        "axis/tokens_per_frame": tokens.get("achieved"), "axis/tokens_requested": tokens.get("requested"),
        "axis/flops_per_frame": sum(flops.values()) if flops else None,
        "axis/kv_mib": sum(held) / 1024**2 if held else None, "axis/peak_mem_gib": summary.get("peak_mem_gib"),
        "axis/update_ratio": summary.get("update_ratio"),
        **{f"axis/{stage}_ms": times.get("mean") for stage, times in (summary.get("latency_ms") or {}).items()},
    }  # fmt: skip
    return {name: value for name, value in values.items() if value is not None}


def knob_scalars(cfg: DictConfig) -> dict[str, Any]:
    """The settings that can be swept, as ``knob/pruner_budget``: without dots, which W&B takes for nesting."""
    nested = canonical(cfg)
    knobs = {"knob/seed": cfg.seed}
    for group in KNOB_GROUPS:
        for key, value in nested[group].items():
            if isinstance(value, (bool, int, float, str)):
                knobs[f"knob/{group}_{key}"] = value
    return knobs


def record_table(records: Sequence[Record]) -> wandb.Table:
    """One row per question."""
    rows = [[_cell(getattr(record, name)) for name in TABLE_COLUMNS] for record in records]
    return wandb.Table(columns=list(TABLE_COLUMNS), data=rows)


def _cell(value: Any) -> Any:
    return " | ".join(map(str, value)) if isinstance(value, list) else value


def _token_maps(run_dir: Path) -> dict[str, list]:
    """Pictures and films of ``token_maps/``, in alphabetical order."""
    files = [path for path in sorted((run_dir / "token_maps").rglob("*")) if path.suffix in MEDIA_KINDS][:MOST_MAPS]
    media: dict[str, list] = {}
    for path in files:
        made = MEDIA_KINDS[path.suffix](str(path), caption=path.stem)
        media.setdefault(f"token_maps/{path.suffix[1:]}", []).append(made)
    return media

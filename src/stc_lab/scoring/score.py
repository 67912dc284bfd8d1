"""Predictions in, records and summary out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from stc_lab.results.layout import CONFIG_FILE, IDENTITY_FILE
from stc_lab.results.records import RECORDS_FILE, write_records
from stc_lab.results.summary_file import write_summary
from stc_lab.scoring.annotations import completed, expected_questions
from stc_lab.scoring.importers import BENCHMARKS, Imported, read_predictions
from stc_lab.scoring.records import to_records
from stc_lab.scoring.rules import RULES

UNKNOWN = "unknown"
REQUIRED = {
    "benchmark": f"one of {', '.join(BENCHMARKS)}",
    "predictions": "the folder or file with the official predictions",
}


def check_required(cfg: DictConfig) -> None:
    """Raise ``ValueError`` when a setting without a default is not given."""
    for key, what in REQUIRED.items():
        if OmegaConf.is_missing(cfg, key):
            raise ValueError(f"{key}=...: missing; give {what}")


def import_predictions(cfg: DictConfig) -> Imported:
    """The predictions that the settings ask for. Raises ``ValueError`` naming the setting that is wrong."""
    check_required(cfg)
    path = Path(cfg.predictions).expanduser()
    imported = read_predictions(cfg.benchmark, path, cfg.model, cfg.unwrap_lists)
    if cfg.annotations is None:
        return imported
    return completed(imported, expected_questions(cfg.benchmark, cfg.annotations))


def score_predictions(cfg: DictConfig, run_dir: Path) -> dict[str, Any]:
    """Write ``records.jsonl``, ``summary.json`` and ``config.yaml`` into ``run_dir``; returns the summary.

    Raises ``ValueError`` for mistakes in the settings, and when the folder is that of a run.
    """
    if (run_dir / IDENTITY_FILE).exists():
        raise ValueError(f"hydra.run.dir={run_dir}: this is the folder of a run; choose another one")
    imported = import_predictions(cfg)
    from stc_lab.results.summary import summarize  # scipy takes a second, and mistakes should show before

    records = to_records(imported, RULES[cfg.benchmark], _fingerprint(cfg, imported))
    name = cfg.name or imported.name
    summary = {
        **summarize(records, cfg.tokens_per_frame, cfg.seed, cfg.benchmark),
        "run": {
            "backbone": cfg.backbone or name,
            "cacher": cfg.cacher or UNKNOWN,
            "pruner": cfg.pruner or UNKNOWN,
            "dataset": cfg.benchmark,
        },
        "name": name,
        "seed": cfg.seed,
        "fingerprint": _fingerprint(cfg, imported),
        "imported_from": [str(file.resolve()) for file in imported.files],
        "notes": list(imported.notes),
    }
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / CONFIG_FILE).write_text(OmegaConf.to_yaml(cfg, resolve=True), encoding="utf-8")
    write_records(run_dir / RECORDS_FILE, records)
    write_summary(run_dir, summary)
    return summary


def _fingerprint(cfg: DictConfig, imported: Imported) -> str:
    """SHA-256 over the predictions themselves and what decides how they are read."""
    digest = hashlib.sha256(json.dumps([cfg.benchmark, cfg.model, cfg.unwrap_lists, cfg.annotations]).encode())
    for file in imported.files:
        digest.update(file.read_bytes())
    return digest.hexdigest()

"""``python -m stc_lab.score``: published predictions by the official rules."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig, OmegaConf

from stc_lab.benchmarks import rule_of
from stc_lab.benchmarks.predictions import (
    ABSENT,
    READER,
    Imported,
    Prediction,
    completed,
    expected_questions,
    importable_benchmarks,
    read_predictions,
)
from stc_lab.benchmarks.rules import Rule
from stc_lab.config import conf_dir
from stc_lab.config.errors import suggest
from stc_lab.report.tables import print_scores, result_console
from stc_lab.results.records import CONFIG_FILE, IDENTITY_FILE, RECORDS_FILE, Record, write_records, write_summary


@dataclass
class MadeWith:
    """Methods that predictions were made with, where they are known.

    A level of its own: on the command line ``backbone=NAME`` would choose a file of that group.
    """

    backbone: str | None = None
    memory: str | None = None
    cacher: str | None = None
    pruner: str | None = None
    tokens_per_frame: int | None = None


@dataclass
class ScoreSettings:
    """Which predictions are scored, and what is known about them."""

    benchmark: str = MISSING
    predictions: str = MISSING
    annotations: str | None = None
    model: str | None = None
    unwrap_lists: bool = False
    name: str | None = None
    made_with: MadeWith = field(default_factory=MadeWith)
    paper: str | None = None
    seed: int = 0
    paths: Any = None


def to_records(imported: Imported, rule: Rule, fingerprint: str) -> list[Record]:
    """One record per prediction, in the order of the files.

    ``correct`` is the verdict of the official rule; no text is wrong. ``prediction`` is our strict reading; where it
    judges otherwise, ``details`` says so.
    """
    return [_to_record(prediction, rule, fingerprint) for prediction in imported.predictions]


def _to_record(prediction: Prediction, rule: Rule, fingerprint: str) -> Record:
    record = Record(
        fingerprint=fingerprint,
        stream_id=prediction.stream_id,
        question_id=prediction.question_id,
        task=prediction.task,
        group=prediction.group,
        time_s=prediction.time_s,
        question=prediction.question,
        options=list(prediction.options),
        answer=prediction.answer,
        status=_status(prediction),
        reason=prediction.reason,
        correct=False,
        reader=READER,
        meta=dict(prediction.meta),
        details=dict(prediction.details),
    )
    if prediction.text is not None:
        _judge(record, prediction.text, rule)
    return record


def _status(prediction: Prediction) -> str:
    if prediction.meta.get(ABSENT):
        return "failed"
    return "unanswered" if prediction.text is None else "answered"


def _judge(record: Record, text: str, rule: Rule) -> None:
    record.text = text
    record.prediction = rule.strict(record, text)
    record.correct = rule.official(record, text, record.details)
    # The strict verdict stands beside the official one only where they part.
    strictly_right = rule.is_strictly_right(record, text, record.details)
    if strictly_right != record.correct:
        record.details["strictly_right"] = strictly_right


UNKNOWN = "unknown"


def check_required(cfg: DictConfig) -> None:
    """Raise ``ValueError`` when a setting without a default is not given."""
    required = {
        "benchmark": f"one of {', '.join(importable_benchmarks())}",
        "predictions": "the folder or file with the official predictions",
    }
    for key, what in required.items():
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

    records = to_records(imported, rule_of(cfg.benchmark), _fingerprint(cfg, imported))
    name, made_with = cfg.name or imported.name, cfg.made_with
    summary = {
        **summarize(records, made_with.tokens_per_frame, cfg.seed, cfg.benchmark),
        "run": {
            "backbone": made_with.backbone or name,
            **({"memory": made_with.memory} if made_with.memory else {}),
            "cacher": made_with.cacher or UNKNOWN,
            "pruner": made_with.pruner or UNKNOWN,
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


ConfigStore.instance().store(name="score_schema", node=ScoreSettings)


def main() -> None:
    """Compose the settings from the command line and score; exit status 1 for a mistake in them."""
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="score")(_run)()
    except SystemExit as exit_:
        suggest(exit_.__context__)
        raise


def _run(cfg: DictConfig) -> None:
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    try:
        summary = score_predictions(cfg, run_dir)
        print_scores(result_console(), summary, cfg.paper)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    print(f"records.jsonl and summary.json in {run_dir}")


if __name__ == "__main__":
    main()

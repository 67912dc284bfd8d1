"""A whole run with ``measure.fidelity``: records, summary, resuming, other settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig
from run_cfg import run_experiment

from stc_lab.results.records import RECORDS_FILE, answer_view, read_records

MakeCfg = Callable[..., DictConfig]
POCKET = {"_target_": "stc_lab.backbones.llava_onevision.LlavaOnevision", "name": "rekv", "checkpoint": "pocket",
          "tokens_per_frame": 196, "max_new_tokens": 2}  # fmt: skip
REKV = {"_target_": "stc_lab.memories.rekv.ReKV", "name": "rekv"}
STC = {"_target_": "stc_lab.cachers.stc.STCCacher", "name": "stc", "interval": 4, "update_ratio": 0.1}


def test_a_run_says_what_its_settings_lose(make_cfg: MakeCfg, tmp_path: Path) -> None:
    changes = {"backbone": POCKET, "memory": REKV, "cacher": STC, "pruner__budget": 20}
    changes |= {"dataset__limit": 2, "dataset__fps": 1.0, "trainer__num_threads": 1}
    cfg, plain = (make_cfg(**changes, measure__fidelity=on) for on in (True, False))
    summary, without = run_experiment(cfg, tmp_path / "with"), run_experiment(plain, tmp_path / "without")
    records, others = (read_records(tmp_path / name / RECORDS_FILE) for name in ("with", "without"))
    assert list(map(answer_view, records)) == list(map(answer_view, others))
    fidelity = summary["fidelity"]
    assert without["fidelity"] is None
    assert (fidelity["feature_cosine"]["num"], fidelity["over"]) == (summary["num_frames"], {"choices": 6})
    assert 0 < fidelity["feature_cosine"]["worst_frame"] < fidelity["feature_cosine"]["mean"] < 1
    assert fidelity["kl_divergence"]["mean"] > 0
    assert set(summary["latency_ms"]) == set(without["latency_ms"])

    lines = (tmp_path / "with" / RECORDS_FILE).read_text().splitlines(keepends=True)
    (tmp_path / "with" / RECORDS_FILE).write_text("".join(lines[:2]))
    assert run_experiment(cfg, tmp_path / "with")["fidelity"] == fidelity
    with pytest.raises(ValueError, match="measure.fidelity=true: 6 questions"):
        run_experiment(make_cfg(**changes, measure__fidelity=True), tmp_path / "without")

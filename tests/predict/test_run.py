"""A whole run with the fake backbone: records, order, failures, baseline, folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fake_backbone import FakeSession
from omegaconf import DictConfig
from run_cfg import run_experiment

from stc_lab.config import RunSettings
from stc_lab.experiment import RunHadErrors
from stc_lab.predict.run import uncompressed
from stc_lab.results.records import RECORDS_FILE, Record, answer_view, read_records

MakeCfg = Callable[..., DictConfig]


def records_in(run_dir: Path) -> dict[tuple[str, str], Record]:
    return {record.key: record for record in read_records(run_dir / RECORDS_FILE)}


def answers(run_dir: Path, **ignored) -> list[str]:
    """Answer views as sorted lines."""
    views = [answer_view(record) for record in records_in(run_dir).values()]
    return sorted(json.dumps(view, sort_keys=True) for view in views)


def subset(cfg: DictConfig, tmp_path: Path, videos: list[str]) -> DictConfig:
    """The same settings, asking only about ``videos``, in that order of lines."""
    lines = Path(cfg.dataset.questions).read_text().splitlines()
    chosen = [line for video in videos for line in lines if json.loads(line)["video"] == video]
    path = tmp_path / f"questions_{'_'.join(videos)}.jsonl"
    path.write_text("\n".join(chosen))
    cfg.dataset.questions = str(path)
    return cfg


def test_every_question_has_a_record_and_the_summary_adds_up(make_cfg: MakeCfg, tmp_path: Path) -> None:
    summary = run_experiment(make_cfg(), tmp_path / "run")
    records = records_in(tmp_path / "run")
    assert len(records) == summary["num_questions"] == 15
    assert summary["accuracy"] == sum(record.correct for record in records.values()) / 15
    assert summary["coverage"] == 1.0
    assert set(summary["by_task"]) == {"now", "past"}
    assert summary["tokens_per_frame"] == {"requested": 4, "achieved": 4.0}
    assert summary["num_frames"] == 5 * 10
    assert summary["latency_ms"]["vision"]["num"] == 48
    assert summary["latency_ms"]["generate"]["num"] == 14
    assert summary["flops_per_frame"] == {"vision": 100.0, "prefill": 40.0}
    assert summary["kv_bytes"] == {"device": 100, "host": 0}
    assert 0 < summary["overhead_ratio"] < 1
    assert summary["encoding"] == {"num_frames": 50, "num_frames_anew": 5 * (3 + 6 + 10), "ratio": 1.9}
    assert summary["prompt"] == {"style": "backbone", "chat_template": True}
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())


@pytest.mark.parametrize(("precision", "is_allowed"), [("32-true", False), ("bf16-true", True)])
def test_32_bits_are_32_bits_while_streams_run(
    make_cfg: MakeCfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, is_allowed: bool
) -> None:
    """Convolutions may take TF32 by torch's default, and may again afterwards."""
    seen, push = set(), FakeSession.push

    def watched(self, *args):
        seen.add(torch.backends.cudnn.allow_tf32)
        return push(self, *args)

    monkeypatch.setattr(FakeSession, "push", watched)
    cfg = make_cfg()
    cfg.trainer.precision = precision
    run_experiment(cfg, tmp_path / "run")
    assert seen == {is_allowed}
    assert torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


def test_results_do_not_depend_on_which_streams_are_run_together(make_cfg: MakeCfg, tmp_path: Path) -> None:
    run_experiment(make_cfg(), tmp_path / "all")
    parts = []
    for number, videos in enumerate([["v4.mp4", "v1.mp4"], ["v0.mp4", "v3.mp4", "v2.mp4"]]):
        run_experiment(subset(make_cfg(), tmp_path, videos), tmp_path / f"part{number}")
        parts += answers(tmp_path / f"part{number}")
    own_key = lambda line: {**json.loads(line), "fingerprint": ""}  # noqa: E731
    assert sorted(map(str, map(own_key, parts))) == sorted(map(str, map(own_key, answers(tmp_path / "all"))))


def test_a_finished_run_asks_nothing_again(make_cfg: MakeCfg, tmp_path: Path) -> None:
    log = tmp_path / "asked.txt"
    cfg = make_cfg(backbone__log=str(log))
    first = run_experiment(cfg, tmp_path / "run")
    assert len(log.read_text().splitlines()) == 15
    assert run_experiment(cfg, tmp_path / "run") == first
    assert len(log.read_text().splitlines()) == 15


def test_only_missing_questions_are_asked_again(make_cfg: MakeCfg, tmp_path: Path) -> None:
    cfg = make_cfg(backbone__log=str(tmp_path / "asked.txt"))
    run_experiment(cfg, tmp_path / "run")
    path = tmp_path / "run" / RECORDS_FILE
    whole, before = path.read_text().splitlines(keepends=True), answers(tmp_path / "run")
    path.write_text("".join(whole[:3] + whole[4:7]) + whole[7][:30])
    (tmp_path / "asked.txt").unlink()
    run_experiment(cfg, tmp_path / "run")
    asked = (tmp_path / "asked.txt").read_text().splitlines()
    assert sorted(asked) == sorted(json.loads(line)["question_id"] for line in [whole[3], *whole[7:]])
    assert answers(tmp_path / "run") == before


def test_other_settings_do_not_mix(make_cfg: MakeCfg, tmp_path: Path) -> None:
    run_experiment(make_cfg(), tmp_path / "run")
    before = (tmp_path / "run" / RECORDS_FILE).read_bytes()
    with pytest.raises(ValueError, match=r"pruner.num_tokens: 4 -> 5"):
        run_experiment(make_cfg(pruner__budget=5), tmp_path / "run")
    assert (tmp_path / "run" / RECORDS_FILE).read_bytes() == before


def test_records_of_another_schema_do_not_mix(make_cfg: MakeCfg, tmp_path: Path) -> None:
    run_experiment(make_cfg(dataset__limit=1), tmp_path / "run")
    path = tmp_path / "run" / RECORDS_FILE
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**line, "schema": 1}) + "\n" for line in lines[:-1]))
    with pytest.raises(ValueError, match="holds records of schema 1"):
        run_experiment(make_cfg(dataset__limit=1), tmp_path / "run")


def test_the_uncompressed_run_keeps_the_memory(make_cfg: MakeCfg) -> None:
    settings = RunSettings.of(make_cfg(memory__num_frames=7))
    plain = uncompressed(settings)
    assert (plain.cacher.name, plain.pruner.name, plain.memory) == ("none", "none", settings.memory)
    assert plain.cfg.memory.num_frames == 7 and settings.pruner.name == "uniform"


def test_settings_that_change_no_answer_may_differ(make_cfg: MakeCfg, tmp_path: Path) -> None:
    first = run_experiment(make_cfg(), tmp_path / "run")
    again = run_experiment(make_cfg(measure__warmup_frames=0, video__timeout_s=5.0), tmp_path / "run")
    assert again["fingerprint"] == first["fingerprint"]


def test_a_bad_video_costs_its_questions_and_nothing_else(make_cfg: MakeCfg, tmp_path: Path) -> None:
    cfg = make_cfg()
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("v0.mp4", "v1.mp4", "v2.mp4"):
        (folder / name).write_bytes((Path(cfg.dataset.videos) / name).read_bytes())
    (folder / "v1.mp4").write_bytes(b"no video at all")
    (folder / "v2.mp4").unlink()
    cfg = subset(cfg, tmp_path, ["v0.mp4", "v1.mp4", "v2.mp4"])
    cfg.dataset.videos = str(folder)
    summary = run_experiment(cfg, tmp_path / "run")
    assert (summary["num_answered"], summary["num_failed"], summary["num_errors"]) == (3, 6, 0)
    assert summary["coverage"] == pytest.approx(1 / 3)
    records = records_in(tmp_path / "run")
    assert all(r.reason.startswith("video missing") for r in records.values() if r.stream_id == "v2.mp4")
    assert all(r.correct is False for r in records.values() if r.status == "failed")


def test_a_defect_is_recorded_and_ends_the_run_with_an_error(make_cfg: MakeCfg, tmp_path: Path) -> None:
    cfg = make_cfg(backbone__fail_in="v3@2")
    with pytest.raises(RunHadErrors, match="2 of 15 questions"):
        run_experiment(cfg, tmp_path / "run")
    records = records_in(tmp_path / "run")
    assert len(records) == 15
    failed = [record for record in records.values() if record.status == "failed"]
    assert [record.question_id for record in failed] == ["v3@2.6", "v3@4.5"]
    assert failed[0].reason == "RuntimeError: a defect"
    assert "fake_backbone.py" in failed[0].error
    with pytest.raises(RunHadErrors):
        run_experiment(cfg, tmp_path / "run")


def test_failed_questions_are_asked_again_only_on_request(make_cfg: MakeCfg, tmp_path: Path) -> None:
    broken = make_cfg(backbone__fail_in="v3@2")
    with pytest.raises(RunHadErrors):
        run_experiment(broken, tmp_path / "run")
    kept = (tmp_path / "run" / RECORDS_FILE).read_text()
    with pytest.raises(RunHadErrors, match="retry_failed=true"):
        run_experiment(broken, tmp_path / "run")
    assert (tmp_path / "run" / RECORDS_FILE).read_text() == kept
    with pytest.raises(RunHadErrors):
        run_experiment(make_cfg(backbone__fail_in="v3@2", retry_failed=True), tmp_path / "run")
    assert len(records_in(tmp_path / "run")) == 15


def test_an_unanswered_question_is_not_asked_again(make_cfg: MakeCfg, tmp_path: Path) -> None:
    questions = tmp_path / "one.jsonl"
    questions.write_text('{"video": "v0.mp4", "question": "unreadable", "options": ["x", "y"], "answer": "A"}\n')
    run_experiment(make_cfg(dataset__questions=str(questions)), tmp_path / "run")
    kept = (tmp_path / "run" / RECORDS_FILE).read_text()
    summary = run_experiment(make_cfg(dataset__questions=str(questions), retry_failed=True), tmp_path / "run")
    assert (tmp_path / "run" / RECORDS_FILE).read_text() == kept and summary["num_unanswered"] == 1


def test_other_questions_are_another_run(make_cfg: MakeCfg, tmp_path: Path) -> None:
    questions = tmp_path / "one.jsonl"
    line = '{"video": "v0.mp4", "question": "%s ?", "options": ["x", "y"], "answer": "A"}\n'
    questions.write_text(line % "which")
    run_experiment(make_cfg(dataset__questions=str(questions)), tmp_path / "run")
    questions.write_text(line % "who")
    with pytest.raises(ValueError, match="data_digest"):
        run_experiment(make_cfg(dataset__questions=str(questions)), tmp_path / "run")


def test_a_run_in_which_streams_fail_one_after_the_other_stops(make_cfg: MakeCfg, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="3 streams in a row failed"):
        run_experiment(make_cfg(backbone__fail_in="v"), tmp_path / "run")
    assert len(records_in(tmp_path / "run")) == 9
    assert not (tmp_path / "run" / "summary.json").exists()


def test_an_answer_that_cannot_be_read_is_unanswered(make_cfg: MakeCfg, tmp_path: Path) -> None:
    cfg = make_cfg()
    questions = tmp_path / "one.jsonl"
    questions.write_text('{"video": "v0.mp4", "question": "unreadable", "options": ["x", "y"], "answer": "A"}\n')
    cfg.dataset.questions = str(questions)
    summary = run_experiment(cfg, tmp_path / "run")
    assert (summary["accuracy"], summary["coverage"], summary["num_unanswered"]) == (0.0, 0.0, 1)


def test_videos_without_questions_run_too(make_cfg: MakeCfg, tmp_path: Path) -> None:
    cfg = make_cfg(dataset__limit=2)
    cfg.dataset.questions = None
    summary = run_experiment(cfg, tmp_path / "run")
    assert summary["accuracy"] is None
    assert summary["num_frames"] == 20


def test_output_without_a_terminal_is_plain_and_free_of_chatter(
    make_cfg: MakeCfg, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_experiment(make_cfg(), tmp_path / "run")
    out, err = capfd.readouterr()
    first, last = err.splitlines()
    assert first == "5 streams, 15 questions, about 50 frames"
    assert last.startswith("questions 15/15, frames 50/50")
    assert "accuracy" in out
    assert not (tmp_path / "run" / "lightning_logs").exists()


def test_baseline_lies_beside_the_run_and_is_resumed(
    make_cfg: MakeCfg, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "asked.txt"
    cfg = make_cfg(baseline=True, backbone__log=str(log))
    run_experiment(cfg, tmp_path / "run")
    assert "uncompressed" in capsys.readouterr().out
    baseline = json.loads((tmp_path / "run" / "baseline" / "summary.json").read_text())
    assert baseline["tokens_per_frame"] == {"requested": 9, "achieved": 9.0}
    assert len(log.read_text().splitlines()) == 30
    run_experiment(cfg, tmp_path / "run")
    assert len(log.read_text().splitlines()) == 30


def test_several_devices_in_a_multirun_are_refused(make_cfg: MakeCfg) -> None:
    from stc_lab.predict.trainer import check_devices

    with pytest.raises(ValueError, match="trainer.devices=2 in a multirun"):
        check_devices(make_cfg(trainer__devices=2).trainer, is_multirun=True)
    check_devices(make_cfg(trainer__devices=2).trainer, is_multirun=False)


@pytest.mark.parametrize("profiler", ["simple", "advanced"])
def test_a_profile_lies_in_the_run_folder(make_cfg: MakeCfg, tmp_path: Path, profiler: str) -> None:
    cfg = make_cfg()
    cfg.trainer.profiler = profiler
    run_experiment(cfg, tmp_path / "run")
    (report,) = (tmp_path / "run").glob("*profile*")
    assert "predict_step" in report.read_text()

"""A mistake on the command line is named, with its value and what is valid, before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
from hydra.errors import ConfigCompositionException, MissingConfigException

from stc_lab.config import validate
from stc_lab.config.errors import suggest
from stc_lab.config.help import GROUPS

MISTAKES = {
    "budget of zero": (["pruner.budget=0"], ["pruner.budget=0", "1"]),
    "budget above the frame": (["pruner.budget=500"], ["pruner.budget=500", "1..196"]),
    "budget and ratio": (["pruner.budget=64", "pruner.keep_ratio=0.3"], ["pruner.budget=64", "pruner.keep_ratio=0.3"]),
    "ratio of zero": (["pruner.keep_ratio=0"], ["pruner.keep_ratio=0", "(0, 1]"]),
    "ratio above one": (["pruner.keep_ratio=1.5"], ["pruner.keep_ratio=1.5", "(0, 1]"]),
    "budget as text": (["pruner.budget=many"], ["pruner.budget='many'", "an integer or null"]),
    "budget as fraction": (["pruner.budget=0.5"], ["pruner.budget=0.5", "an integer or null"]),
    "budget as truth": (["pruner.budget=true"], ["pruner.budget=True", "an integer or null"]),
    "alpha": (["pruner.alpha=2"], ["pruner.alpha=2", "[0, 1]"]),
    "window": (["pruner.window=0"], ["pruner.window=0", "at least 1"]),
    "interval of zero": (["cacher.interval=0"], ["cacher.interval=0", "at least 1"]),
    "update ratio": (["cacher.update_ratio=1.5"], ["cacher.update_ratio=1.5", "[0, 1]"]),
    "threshold": (["cacher.threshold=1.01"], ["cacher.threshold=1.01", "[0, 1]"]),
    "negative threshold": (["cacher.threshold=-0.1"], ["cacher.threshold=-0.1", "[0, 1]"]),
    "measure without a scale": (["cacher.metric=l2", "cacher.threshold=0.9"], ["cacher.metric=l2", "cosine"]),
    "merged tokens": (["cacher=tome", "cacher.output=merged"], ["cacher.output=merged", "cacher.num_tokens"]),
    "merging twice": (["cacher=tome", "cacher.r=8", "cacher.num_tokens=64"], ["cacher.num_tokens=64", "cacher.r=8"]),
    "budget above what merging leaves": (
        ["cacher=tome", "cacher.output=merged", "cacher.num_tokens=32"],
        ["pruner.budget=64", "1..32"],
    ),
    "new key": (["+pruner.bugdet=64"], ["pruner.bugdet=64", "did you mean 'budget'", "keep_ratio"]),
    "new key at the top": (["+sed=1"], ["sed=1", "did you mean 'seed'", "pruner"]),
    "new key of the trainer": (["+trainer.accelerators=cpu"], ["trainer.accelerators", "did you mean 'accelerator'"]),
    "reader": (["video.reader=opencv"], ["video.reader=opencv", "decord", "pyav"]),
    "time limit": (["video.timeout_s=0"], ["video.timeout_s=0", "above 0"]),
    "infinite time limit": (["video.timeout_s=inf"], ["video.timeout_s=inf", "finite"]),
    "warm-up": (["measure.warmup_frames=-1"], ["measure.warmup_frames=-1", "at least 0"]),
    "token maps": (["measure.token_maps=-1"], ["measure.token_maps=-1", "at least 0"]),
    "seed": (["seed=-1"], ["seed=-1", "at least 0"]),
    "accelerator": (["trainer.accelerator=tpu"], ["trainer.accelerator=tpu", "auto", "cpu", "cuda"]),
    "precision": (["trainer.precision=32"], ["trainer.precision=32", "32-true", "bf16-true", "16-true"]),
    "profiler": (["trainer.profiler=fast"], ["trainer.profiler=fast", "null", "simple", "advanced"]),
    "devices": (["trainer.devices=0"], ["trainer.devices=0", "at least 1"]),
    "threads": (["trainer.num_threads=0"], ["trainer.num_threads=0", "at least 1"]),
    "objective": (["objective=3"], ["objective=3", "summary.json"]),
    "frame rate": (["dataset.fps=0"], ["dataset.fps"]),
    "limit": (["dataset.limit=0"], ["dataset.limit"]),
    "required": (["dataset=folder"], ["dataset.videos is required"]),
    "logger": (["logger=wandb", "logger.mode=fast"], ["logger.mode='fast'", "auto, online, offline, disabled"]),
    "backbone": (["backbone.tokens_per_frame=many"], ["backbone.tokens_per_frame='many'", "an integer"]),
}


@pytest.mark.parametrize(("overrides", "fragments"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_named_with_what_is_valid(settings, overrides, fragments):
    with pytest.raises(ValueError) as caught:
        validate(settings(*overrides))
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_missing_device_is_named(settings, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match=r"trainer.accelerator=cuda: no CUDA device .* use cpu or auto"):
        validate(settings("trainer.accelerator=cuda"))


@pytest.mark.parametrize("group", GROUPS)
def test_unknown_choice_lists_the_choices(settings, group):
    with pytest.raises((ConfigCompositionException, MissingConfigException)) as caught:
        settings(f"{group}=nonsense")
    assert f"{group}/nonsense" in str(caught.value)
    assert f"Available options in '{group}'" in str(caught.value)


@pytest.mark.parametrize("override", ["seed=abc", "trainer.devices=two", "video.timeout_s=long", "baseline=perhaps"])
def test_wrong_type_of_a_typed_setting(settings, override):
    with pytest.raises(ConfigCompositionException) as caught:
        settings(override)
    assert override in str(caught.value)
    reason = str(caught.value.__cause__)
    assert "could not be converted" in reason or "is not a valid bool" in reason


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("pruner.budgett=64", "Did you mean 'budget'? Valid settings of pruner: alpha, budget, keep_ratio"),
        ("prunner=stc", "Did you mean 'pruner'? Valid settings: backbone"),
        ("trainer.acelerator=cpu", "Did you mean 'accelerator'? Valid settings of trainer: accelerator"),
    ],
)
def test_unknown_setting_is_explained(settings, capsys, override, hint):
    with pytest.raises(ConfigCompositionException) as caught:
        settings(override)
    suggest(caught.value)
    assert hint in capsys.readouterr().err


def test_other_errors_need_no_explanation(capsys):
    suggest(None)
    suggest(ValueError("something else"))
    assert capsys.readouterr().err == ""


def test_mistakes_cost_one_line_and_no_heavy_import(tmp_path):
    """In a process of its own: exit status 1, one line, nothing of the training stack imported, nothing loaded."""
    script = """
        import sys
        from stc_lab.cli import main
        sys.argv = ["stc_lab", "pruner.budget=0"]
        try:
            main()
        except SystemExit as exit_:
            print(exit_.code, sorted({"transformers", "lightning", "wandb", "decord"} & set(sys.modules)))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert done.stdout.strip() == "1 []"
    assert done.stderr.strip().splitlines() == [
        "error: pruner.budget=0: must be a whole number from 1 to the tokens per frame"
    ]

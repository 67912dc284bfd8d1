"""Every choice of every group composes, resolves and names something that exists."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from stc_lab.config import Config, validate
from stc_lab.config.help import describe_choice, group_choices

CHOICES = [(group, choice) for group, choices in group_choices().items() if group != "hydra" for choice in choices]
FILES = ("root", "videos")
NEEDS_CUDA = ["trainer.accelerator=cpu"]


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_choice_composes_and_is_valid(settings, group, choice):
    # A memory that belongs to a trained format comes with the model of that name.
    model = [f"backbone={choice}"] if group == "memory" and choice in group_choices()["backbone"] else []
    cfg = settings(*model, f"{group}={choice}", *NEEDS_CUDA)
    for key in FILES:  # which only a user has
        if OmegaConf.is_missing(cfg.dataset, key):
            cfg.dataset[key] = "."
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    validate(cfg, with_files=False)


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_choice_says_in_one_line_what_it_is(group, choice):
    assert 10 < len(describe_choice(group, choice)) <= 110


def test_groups_are_those_that_people_ask_for():
    groups = "backbone memory cacher pruner dataset trainer logger method experiment debug callbacks hydra paths"
    assert set(groups.split()) <= set(group_choices())


def test_defaults_of_schema_and_yaml_agree(settings):
    """The same default stands in the schema and, with its comment, in the YAML: they must not drift apart."""
    cfg, schema = settings(), OmegaConf.structured(Config)
    plain = ("seed", "baseline", "retry_failed", "objective", "print_config")
    for name in (*plain, "video", "measure", "trainer", "report"):
        assert cfg[name] == schema[name], name


def test_default_run(settings):
    cfg = settings()
    chosen = (cfg.backbone.name, cfg.backbone.checkpoint, cfg.cacher.name, cfg.pruner.name, cfg.dataset.name)
    assert chosen == ("rekv", "pocket", "stc", "stc", "pocket")


def test_settings_from_the_readme(settings):
    cfg = settings("backbone=rekv", "cacher.interval=2", "cacher.update_ratio=0.25", "pruner=stc", "pruner.budget=64")
    validate(cfg)
    assert (cfg.pruner.budget, cfg.cacher.update_ratio) == (64, 0.25)


def test_keep_ratio_needs_no_budget(settings):
    validate(settings("pruner.keep_ratio=0.3"))


def test_none_accepts_and_ignores_a_budget(settings):
    validate(settings("pruner=none", "pruner.budget=64"))
    validate(settings("pruner=none", "pruner.keep_ratio=0.3"))


def test_no_group_sets_the_launcher_or_the_mode(settings):
    """Both come too late in a group, or are errors in later Hydra versions."""
    from stc_lab.config import conf_dir

    for file in conf_dir().rglob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        assert "hydra/launcher" not in text.replace("#   python", "") or file.parent.name != "experiment", file
        assert "mode: MULTIRUN" not in text, file

"""Interpolations of the configuration."""

from __future__ import annotations

from pathlib import Path

from stc_lab.config.resolvers import LONGEST_FOLDER_NAME, folder_name, user_path


def test_folder_name_is_the_overrides_methods_first():
    name = folder_name(["dataset.limit=8", "pruner.budget=16", "pruner=stc"])
    assert name == "pruner=stc,pruner.budget=16,dataset.limit=8"
    assert folder_name([]) == "defaults"


def test_folder_name_does_not_depend_on_the_order():
    assert folder_name(["seed=1", "cacher=none"]) == folder_name(["cacher=none", "seed=1"])


def test_folder_name_is_legal_short_and_unique():
    first, second = (folder_name([f"backbone.checkpoint=/{folder}/model"]) for folder in ("a", "b"))
    assert first.startswith("backbone.checkpoint=model-") and first != second
    long = folder_name(["key=" + "x" * 500])
    assert len(long) <= LONGEST_FOLDER_NAME and long != folder_name(["key=" + "x" * 501])
    assert folder_name(["tags=[a,b]"]) != folder_name(["tags=_a_b_"])


def test_user_path():
    assert user_path("~/x") == str(Path.home() / "x")
    assert user_path("/x") == "/x"


def test_cache_folder_can_be_set_in_the_environment(settings, monkeypatch):
    monkeypatch.setenv("STC_LAB_CACHE", "/elsewhere")
    assert settings().dataset.root == "/elsewhere/pocket"

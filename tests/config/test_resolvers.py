"""Interpolations of the configuration."""

from __future__ import annotations

from pathlib import Path

from stc_lab.config.resolvers import LONGEST_FOLDER_NAME, folder_name, user_path


def test_folder_name_is_the_overrides():
    assert folder_name("pruner.budget=16,pruner=stc") == "pruner.budget=16,pruner=stc"
    assert folder_name("") == "defaults"


def test_folder_name_is_legal_short_and_unique():
    first, second = folder_name("backbone.checkpoint=/a/b"), folder_name("backbone.checkpoint=_a_b")
    assert "/" not in first and first != second
    long = folder_name("key=" + "x" * 500)
    assert len(long) <= LONGEST_FOLDER_NAME and long != folder_name("key=" + "x" * 501)


def test_user_path():
    assert user_path("~/x") == str(Path.home() / "x")
    assert user_path("/x") == "/x"


def test_cache_folder_can_be_set_in_the_environment(settings, monkeypatch):
    monkeypatch.setenv("STC_LAB_CACHE", "/elsewhere")
    assert settings().dataset.root == "/elsewhere/pocket"

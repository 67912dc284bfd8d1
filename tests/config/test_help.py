"""``--help`` names every group, choice and main setting, and stays readable."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stc_lab.config.help import GROUPS, describe_choice, group_choices


@pytest.fixture(scope="module")
def printed(tmp_path_factory) -> str:
    command = [sys.executable, "-m", "stc_lab", "pruner=stc_gaussian", "pruner.budget=17", "--help"]
    folder = tmp_path_factory.mktemp("elsewhere")
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120, check=True)
    return done.stdout


def test_leads_with_what_it_is_and_how_to_use_it(printed):
    sections = [printed.index(text) for text in ("stc_lab:", "Usage:", "Examples:", "Groups", "Settings", "More:")]
    assert sections == sorted(sections)
    assert 6 <= printed.count("\n  python -m stc_lab") <= 9


def test_names_every_choice_with_its_description(printed):
    listed = {line.removeprefix("    * ").strip().split(" ")[0] for line in printed.splitlines()}
    for group in GROUPS:
        for choice in group_choices()[group]:
            assert choice in listed
            assert describe_choice(group, choice) in printed


def test_shows_the_settings_of_the_chosen_methods(printed):
    assert "pruner.budget=17 " in printed
    assert "* stc_gaussian" in printed
    for setting in ("seed=0 ", "cacher.interval=2 ", "dataset.fps=1.0 ", "trainer.devices=1 ", "video.reader=decord "):
        assert setting in printed


def test_fits_a_terminal(printed):
    assert max(map(len, printed.splitlines())) <= 160
    assert printed.count("\n") < 220
    assert "${" not in printed


def test_every_setting_of_a_method_is_explained(settings):
    """A key of a YAML file without a comment behind it would be missing from the help."""
    from stc_lab.config.help import _group_comments

    for group in ("backbone", "memory", "cacher", "pruner", "dataset", "trainer"):
        for choice in group_choices()[group]:
            overrides = ["dataset.videos=."] if choice == "folder" else []
            keys = {key for key in settings(f"{group}={choice}", *overrides)[group] if key not in ("_target_", "name")}
            assert keys == set(_group_comments(group, choice)), f"{group}={choice}"

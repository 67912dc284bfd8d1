"""From a node to an object; types of plug-in settings are read from the class or function that takes them."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from omegaconf import DictConfig, OmegaConf

from stc_lab.config import build, conf_dir
from stc_lab.config.build import check_arguments, describe, fits, target_of
from stc_lab.config.schema import PLUGIN_GROUPS


@dataclass(frozen=True)
class Example:
    """Stands for a method."""

    number: int
    values: list | None = None

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError("number must not be negative")


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.setattr("stc_lab.types.Example", Example, raising=False)


def node(**settings: object) -> DictConfig:
    return OmegaConf.create({"_target_": "stc_lab.types.Example", **settings})


def test_builds_with_plain_values_and_extras():
    example = build(node(values=[1, 2]), number=3)
    assert (example.number, example.values, type(example.values)) == (3, [1, 2], list)


def test_a_name_is_dropped_where_nothing_takes_it():
    assert build(node(number=1, name="shown")) == Example(1)


def test_nothing_to_build():
    assert build(None) is None
    assert build(OmegaConf.create({"name": "none"})) is None


def test_errors_come_out_as_they_are():
    with pytest.raises(ValueError, match="^number must not be negative$"):
        build(node(number=-1))


def test_wrong_target_is_an_import_error():
    with pytest.raises(ImportError):
        build({"_target_": "stc_lab.no_such_module.Thing"})


def example(
    count: int, share: float = 0.5, mode: Literal["a", "b"] = "a", folder: str | Path | None = None, name: str = "x"
) -> None:
    """Stands for a method."""


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, int, True),
        (True, int, False),
        (1.0, int, False),
        (1, float, True),
        (True, float, False),
        ("1", float, False),
        (None, int | None, True),
        (None, int, False),
        ("a", Literal["a", "b"], True),
        ("c", Literal["a", "b"], False),
        (1, Literal[True], False),
        ("dir", Path, True),
        (3, Path, False),
        ([1], list, True),
        ("anything", Any, True),
    ],
)
def test_fits(value, hint, expected):
    assert fits(value, hint) is expected


def test_describe():
    assert describe(int | None) == "an integer or null"
    assert describe(Literal["a", "b"]) == "one of a, b"


def test_arguments_that_fit_pass():
    check_arguments("group", {"_target_": "x", "count": 3, "share": 1, "mode": "b", "folder": "here"}, example)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": "3"}, "group.count='3': must be an integer"),
        ({"count": 3, "mode": "c"}, "group.mode='c': must be one of a, b"),
        ({"count": 3, "folder": 1}, "group.folder=1: must be a text or a path or null"),
        ({"count": "???"}, "group.count is required"),
        ({"count": 3, "shares": 1}, "group.shares=1: no such setting; valid settings are count"),
    ],
)
def test_arguments_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match="group") as caught:
        check_arguments("group", settings, example)
    assert message in str(caught.value)


def test_a_name_need_not_be_taken():
    check_arguments("group", {"count": 1, "name": "shown"}, lambda count: None)


FILES = [file for group in PLUGIN_GROUPS for file in sorted((conf_dir() / group).glob("*.yaml"))]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_yaml_file_has_the_settings_of_its_class_and_no_others(file):
    """A setting is declared once, in the class; the file explains each of them and gives its default."""
    settings = OmegaConf.to_container(OmegaConf.load(file))
    target = target_of(settings)
    if target is None:
        return
    taken = {field.name for field in dataclasses.fields(target)} if dataclasses.is_dataclass(target) else (
        {"name", *inspect.signature(target).parameters}
    )  # fmt: skip
    assert settings.keys() - {"_target_", "defaults"} == taken

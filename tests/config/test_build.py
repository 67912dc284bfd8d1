"""From a node to an object."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from omegaconf import DictConfig, OmegaConf

from stc_lab.config import build


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


def test_labels_are_dropped_where_nothing_takes_them():
    assert build(node(number=1, name="shown", fps=1.0)) == Example(1)


def test_nothing_to_build():
    assert build(None) is None
    assert build(OmegaConf.create({"name": "none"})) is None


def test_errors_come_out_as_they_are():
    with pytest.raises(ValueError, match="^number must not be negative$"):
        build(node(number=-1))


def test_wrong_target_is_an_import_error():
    with pytest.raises(ImportError):
        build({"_target_": "stc_lab.no_such_module.Thing"})

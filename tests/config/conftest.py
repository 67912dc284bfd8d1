"""Composing settings as the command line does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from stc_lab.config import conf_dir

Compose = Callable[..., DictConfig]


@cache
def _composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", overrides=list(overrides))


@pytest.fixture
def settings() -> Compose:
    """``settings("pruner=none", "pruner.budget=64")``: the composed configuration, to do with as you like."""
    return lambda *overrides: copy.deepcopy(_composed(*overrides))

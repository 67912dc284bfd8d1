"""Composing settings as the command line does."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from stc_lab.config import conf_dir

Compose = Callable[..., DictConfig]


@pytest.fixture
def settings() -> Iterator[Compose]:
    """``settings("pruner=none", "pruner.budget=64")``: the composed configuration."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield lambda *overrides: compose("config", overrides=list(overrides))

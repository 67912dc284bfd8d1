"""Configuration: where it lies, what it may hold, what of it matters, and how it becomes objects."""

from __future__ import annotations

from hydra.core.config_store import ConfigStore

from stc_lab.config import resolvers
from stc_lab.config.build import RunSettings, build, canonical, resolved_accelerator
from stc_lab.config.environment import environment
from stc_lab.config.help import help_text, print_config, resolved, save_config
from stc_lab.config.resolvers import conf_dir
from stc_lab.config.schema import Config
from stc_lab.config.validate import validate

ConfigStore.instance().store(name="schema", node=Config)
resolvers.register(help_text)

__all__ = [
    "Config",
    "RunSettings",
    "build",
    "canonical",
    "conf_dir",
    "environment",
    "print_config",
    "resolved",
    "resolved_accelerator",
    "save_config",
    "validate",
]

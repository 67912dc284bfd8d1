"""From a configuration node to an object: the only place that calls ``hydra.utils.instantiate``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

LABELS = ("name", "selection", "fps")
"""Keys that tell the reader or the predict loop something; passed on only to targets that take them."""


def settings_of(node: DictConfig | Mapping[str, Any] | None) -> dict[str, Any]:
    """The node as a plain dictionary with interpolations resolved (empty for ``None``)."""
    if node is None:
        return {}
    return OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else dict(node)


def target_of(settings: Mapping[str, Any]) -> Any:
    """The class or function that ``_target_`` names, ``None`` where there is none."""
    path = settings.get("_target_")
    if not path:
        return None
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def arguments_of(settings: Mapping[str, Any], target: Any) -> dict[str, Any]:
    """The settings that go to ``target``: all but ``_target_`` and the labels it does not take."""
    parameters = inspect.signature(target).parameters
    arguments = {key: value for key, value in settings.items() if not key.startswith("_")}
    return {key: value for key, value in arguments.items() if key in parameters or key not in LABELS}


def build(node: DictConfig | Mapping[str, Any] | None, **extra: Any) -> Any:
    """Object that ``node`` describes, made with its settings and ``extra``; ``None`` for a node without ``_target_``.

    What the target raises (``ValueError`` for a user mistake, ...) comes out as it is, not wrapped by Hydra.
    """
    settings = settings_of(node)
    target = target_of(settings)
    if target is None:
        return None
    arguments = {"_target_": settings["_target_"], "_convert_": "all"} | arguments_of(settings, target)
    try:
        return instantiate(arguments, **extra)
    except InstantiationException as error:
        raise error.__cause__ or error from None

"""From a configuration node to an object, to what is wrong with its settings, and to what of them matters.

The only place that calls ``hydra.utils.instantiate``.
"""

from __future__ import annotations

import difflib
import inspect
import sys
import types
import typing
from collections.abc import Collection, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Union

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from stc_lab import __version__

LABELS = ("name", "fps")
"""Keys that tell the reader or the predict loop something; passed on only to targets that take them."""
PATH_KEYS = ("checkpoint", "videos", "questions", "root", "subtitle_files")
NAMES = {int: "an integer", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
ANYTHING = object()


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


def check_arguments(group: str, settings: Mapping[str, Any], target: Any) -> None:
    """Raise ``ValueError`` for a setting that ``target`` does not take, or of the wrong type."""
    parameters = inspect.signature(target).parameters
    free = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key, value in arguments_of(settings, target).items():
        if key not in parameters and not free:
            raise ValueError(unknown_key(f"{group}.{key}", value, key, [k for k in settings if k in parameters]))
        if value == "???":
            raise ValueError(f"{group}.{key} is required: give {group}.{key}=...")
        hint = annotation(target, parameters[key]) if key in parameters else ANYTHING
        if not fits(value, hint):
            raise ValueError(f"{group}.{key}={value!r}: must be {describe(hint)}")


def unknown_key(full_key: str, value: Any, key: str, choices: Collection[str]) -> str:
    """Message for a setting that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(key, choices, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{full_key}={value!r}: no such setting; {hint}valid settings are {', '.join(sorted(choices))}"


def annotation(target: Any, parameter: inspect.Parameter) -> Any:
    """Type of a parameter; ``ANYTHING`` where it has none or names something only type checkers import."""
    hint = parameter.annotation
    if hint is parameter.empty:
        return ANYTHING
    if not isinstance(hint, str):
        return hint
    for owner in getattr(target, "__mro__", (target,)):
        try:
            return eval(hint, vars(sys.modules[owner.__module__]))
        except NameError:
            continue
    return ANYTHING


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value from a configuration may be passed for ``hint``."""
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in typing.get_args(hint))
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in typing.get_args(hint))
    if hint is None:
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is Path:
        return isinstance(value, str)
    if hint in NAMES:
        return isinstance(value, hint)
    return True


def describe(hint: Any) -> str:
    """``hint`` in words: ``an integer or null``, ``one of generate, letter_logits``."""
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(part) for part in typing.get_args(hint))
    if origin is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    return NAMES.get(hint, "a path" if hint is Path else str(hint))


def canonical(cfg: DictConfig) -> dict[str, Any]:
    """Nested plain dictionary of everything that can change an answer, and of nothing else.

    Left out are settings that the chosen method ignores (the budget of ``pruner=none``, the update ratio of a
    cacher that selects by threshold), and where, how fast and with how much output the run takes place. Two ways
    to say the same thing (``budget=58``, ``keep_ratio=0.3``) become one. A method with other rules has a method
    ``answer_settings() -> dict``. Paths are absolute, so that the working directory does not matter.
    """
    return {
        "version": __version__,
        "seed": cfg.seed,
        "precision": cfg.trainer.precision,
        "accelerator": resolved_accelerator(cfg.trainer.accelerator),
        "video": {"reader": cfg.video.reader},
        "backbone": _settings(cfg.backbone, cfg),
        "memory": _method_settings(cfg.memory, cfg),
        "cacher": _cacher_settings(cfg),
        "pruner": _pruner_settings(cfg),
        "dataset": _settings(cfg.dataset, cfg),
    }


def resolved_accelerator(accelerator: str) -> str:
    """``cpu``, ``cuda`` or ``mps``: the device that ``trainer.accelerator`` means on this machine."""
    import torch

    if accelerator == "gpu":
        return "cuda"
    if accelerator != "auto":
        return accelerator
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _settings(node: DictConfig, cfg: DictConfig) -> dict[str, Any]:
    settings = {key: value for key, value in settings_of(node).items() if key != "_target_"}
    for key in PATH_KEYS:
        if isinstance(settings.get(key), str):
            settings[key] = _stable_path(settings[key], Path(cfg.paths.cache_dir).expanduser())
    return settings


def _stable_path(value: str, cache_dir: Path) -> str:
    """An existing or cached path in absolute form; hub ids and names of built-in checkpoints as they are."""
    path = Path(value).expanduser()
    if path.is_relative_to(cache_dir):
        return f"<cache>/{path.relative_to(cache_dir).as_posix()}"
    return str(path.resolve()) if path.exists() else value


def _cacher_settings(cfg: DictConfig) -> dict[str, Any]:
    settings = _method_settings(cfg.cacher, cfg)
    if "threshold" in settings and "update_ratio" in settings:
        by_ratio = settings["threshold"] is None
        for key in ("threshold", "max_update_ratio") if by_ratio else ("update_ratio",):
            settings.pop(key, None)
    return settings


def _pruner_settings(cfg: DictConfig) -> dict[str, Any]:
    settings = _method_settings(cfg.pruner, cfg)
    if "budget" in settings or "keep_ratio" in settings:
        tokens_per_frame = cfg.backbone.tokens_per_frame
        if tokens_per_frame is None:  # it depends on the video, and a ratio and a number are not the same
            return settings
        settings = {key: value for key, value in settings.items() if key not in ("budget", "keep_ratio")}
        settings["num_tokens"] = build(cfg.pruner).num_kept(tokens_per_frame)
    return settings


def _method_settings(node: DictConfig, cfg: DictConfig) -> dict[str, Any]:
    method = build(node)
    if hasattr(method, "answer_settings"):
        return {"name": node.get("name"), **method.answer_settings()}
    return _settings(node, cfg)

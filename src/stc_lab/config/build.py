"""From a configuration to frozen objects, to what is wrong with a setting, and to what can change an answer.

The only place that calls ``hydra.utils.instantiate``.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from stc_lab import __version__

if TYPE_CHECKING:  # they import torch, which ``--help`` does not wait for
    from stc_lab.backbones.base import Backbone
    from stc_lab.benchmarks.base import Benchmark
    from stc_lab.cachers.base import Cacher
    from stc_lab.memories.base import Memory
    from stc_lab.pruners.base import Pruner

PATH_KEYS = ("checkpoint", "videos", "questions", "root", "subtitle_files")
NAMES = {int: "an integer", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
ANYTHING = object()


@dataclass(frozen=True)
class RunSettings:
    """A configuration with the frozen objects that it describes: built once, by ``validate``, and handed on."""

    cfg: DictConfig
    backbone: Backbone
    memory: Memory
    cacher: Cacher
    pruner: Pruner
    benchmark: Benchmark

    @classmethod
    def of(cls, cfg: DictConfig) -> RunSettings:
        """Build all five, without the checks of ``validate``."""
        parts = {group: build(cfg[group]) for group in ("backbone", "memory", "cacher", "pruner")}
        return cls(cfg, benchmark=build(cfg.dataset), **parts)


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
    """The settings that go to ``target``: all but ``_target_``, and but a name for the reader that it does not take."""
    parameters = inspect.signature(target).parameters
    arguments = {key: value for key, value in settings.items() if not key.startswith("_")}
    return {key: value for key, value in arguments.items() if key in parameters or key != "name"}


def build(node: DictConfig | Mapping[str, Any] | None, **extra: Any) -> Any:
    """Object that ``node`` describes, made with its settings and ``extra``; ``None`` for a node without ``_target_``.

    What the target raises (``ValueError`` for a user mistake, ...) comes out as it is, not wrapped by Hydra.
    """
    settings = settings_of(node)
    target = target_of(settings)
    if target is None:
        return None
    arguments = {"_target_": settings["_target_"], "_convert_": "all"} | arguments_of(settings, target)
    # Lists and dictionaries come out as plain ones ("all"): frozen settings hold nothing of OmegaConf.
    try:
        return instantiate(arguments, **extra)
    except InstantiationException as error:
        raise error.__cause__ or error from None


def check_arguments(group: str, settings: Mapping[str, Any], target: Any) -> None:
    """Raise ``ValueError`` for a setting that ``target`` does not take, or of the wrong type."""
    parameters, hints = inspect.signature(target).parameters, type_hints(target)
    free = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key, value in arguments_of(settings, target).items():
        if key not in parameters and not free:
            raise ValueError(unknown_key(f"{group}.{key}", value, key, [k for k in settings if k in parameters]))
        if value == "???":
            raise ValueError(f"{group}.{key} is required: give {group}.{key}=...")
        hint = hints.get(key, ANYTHING)
        if not fits(value, hint):
            raise ValueError(f"{group}.{key}={value!r}: must be {describe(hint)}")


def unknown_key(full_key: str, value: Any, key: str, choices: Collection[str]) -> str:
    """Message for a setting that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(key, choices, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{full_key}={value!r}: no such setting; {hint}valid settings are {', '.join(sorted(choices))}"


def type_hints(target: Any) -> dict[str, Any]:
    """Types of what a dataclass, another class or a function takes, by name.

    None of them where a type is known to type checkers only; what a function returns does not matter.
    """
    try:
        if dataclasses.is_dataclass(target):
            return typing.get_type_hints(target)
        function = target.__init__ if inspect.isclass(target) else target
        hints = {name: hint for name, hint in function.__annotations__.items() if name != "return"}
        return typing.get_type_hints(types.SimpleNamespace(__annotations__=hints), function.__globals__)
    except (NameError, AttributeError):
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value from a configuration may be passed for ``hint``."""
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in typing.get_args(hint))
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in typing.get_args(hint))
    if hint is None:
        return value is None
    # A whole number is a number, and true or false is neither.
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


def canonical(settings: RunSettings) -> dict[str, Any]:
    """Nested plain dictionary of everything that can change an answer, and of nothing else.

    Left out are settings that the chosen method ignores (the budget of ``pruner=none``, the update ratio of a
    cacher that selects by threshold), and where, how fast and with how much output the run takes place. Two ways
    to say the same thing (``budget=58``, ``keep_ratio=0.3``) become one. An object with other rules has a method
    ``answer_settings() -> dict``. Paths are absolute, so that the working directory does not matter.
    """
    # No key may depend on the machine but the kind of device, nor on the time or the working directory.
    cfg = settings.cfg
    cache_dir = Path(cfg.paths.cache_dir).expanduser()
    return {
        "version": __version__,
        "seed": cfg.seed,
        "precision": cfg.trainer.precision,
        "accelerator": resolved_accelerator(cfg.trainer.accelerator),
        "video": {"reader": cfg.video.reader},
        "backbone": _answer_settings(settings.backbone, cache_dir),
        "memory": _answer_settings(settings.memory, cache_dir),
        "cacher": _cacher_settings(_answer_settings(settings.cacher, cache_dir)),
        "pruner": _pruner_settings(_answer_settings(settings.pruner, cache_dir), settings),
        "dataset": _answer_settings(settings.benchmark, cache_dir),
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


def _answer_settings(part: Any, cache_dir: Path) -> dict[str, Any]:
    if hasattr(part, "answer_settings"):
        return {"name": part.name, **part.answer_settings()}
    values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part) if field.init}
    # The same file under another name is the same file.
    paths = {key: _stable_path(values[key], cache_dir) for key in PATH_KEYS if isinstance(values.get(key), str | Path)}
    return values | paths


def _stable_path(value: str | Path, cache_dir: Path) -> str:
    """An existing or cached path in absolute form; hub ids and names of built-in checkpoints as they are."""
    path = Path(value).expanduser()
    if path.is_relative_to(cache_dir):
        return f"<cache>/{path.relative_to(cache_dir).as_posix()}"
    return str(path.resolve()) if path.exists() else str(value)


def _cacher_settings(values: dict[str, Any]) -> dict[str, Any]:
    """Without the way of selection that is not taken."""
    if "threshold" not in values or "update_ratio" not in values:
        return values
    unused = ("threshold", "max_update_ratio") if values["threshold"] is None else ("update_ratio",)
    return {key: value for key, value in values.items() if key not in unused}


def _pruner_settings(values: dict[str, Any], settings: RunSettings) -> dict[str, Any]:
    """With the number of tokens in place of the two ways to ask for it."""
    tokens_per_frame = getattr(settings.backbone, "tokens_per_frame", None)
    if tokens_per_frame is None or not values.keys() & {"budget", "keep_ratio"}:
        return values  # where it depends on the video, a ratio and a number are not the same
    values = {key: value for key, value in values.items() if key not in ("budget", "keep_ratio")}
    return values | {"num_tokens": settings.pruner.num_kept(tokens_per_frame)}

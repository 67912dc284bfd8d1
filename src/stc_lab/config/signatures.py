"""Settings of a plug-in against the signature of the class or function that takes them."""

from __future__ import annotations

import difflib
import inspect
import sys
import types
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, Union

from stc_lab.config.build import arguments_of

NAMES = {int: "an integer", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
ANYTHING = object()


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

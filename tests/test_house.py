"""The house stays as it is drawn: imports point down, nothing is declared twice, nobody overrides a private step."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

import stc_lab
from stc_lab.config import conf_dir
from stc_lab.config.build import target_of

SOURCE = Path(stc_lab.__file__).parent

FLOORS = (
    ("types", "answers", "video", "vision", "measure"),
    ("cachers", "pruners", "language"),
    ("memories",),
    ("triggers", "backbones", "answering", "encoder", "session", "pocket", "acceleration"),
    ("benchmarks", "results", "config"),
    ("token_maps", "predict"),
    ("report",),
    ("api", "bench", "cli", "compare", "experiment", "score", "search", "__main__"),
    ("training",),
)
"""Lowest first; rooms of one floor may know each other."""

COMMANDS = ("pocket.commentary", "pocket.decisions", "pocket.probe")
"""Modules that nobody imports, commands of their own: they may know everything."""


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name without ``stc_lab.``."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        if name != "__init__":
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(tree: ast.Module) -> set[str]:
    """Modules of the package that a module imports, wherever it does, types included."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("stc_lab"):
            inner = node.module.removeprefix("stc_lab").lstrip(".")
            for alias in node.names:
                full = f"{inner}.{alias.name}" if inner else alias.name
                names.add(full if full in modules() else inner)
        elif isinstance(node, ast.Import):
            names |= {alias.name.removeprefix("stc_lab.") for alias in node.names if alias.name.startswith("stc_lab.")}
    return names - {""}


def floor_of(module: str) -> int:
    if module in COMMANDS:
        return len(FLOORS) - 1
    room = module.split(".")[0]
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def test_imports_point_down() -> None:
    upward = [
        f"{module} (floor {floor_of(module) + 1}) imports {other} (floor {floor_of(other) + 1})"
        for module, tree in modules().items()
        for other in imports(tree)
        if floor_of(other) > floor_of(module)
    ]
    assert not upward, "\n".join(upward)


def test_there_is_no_circle_of_imports() -> None:
    graph = {module: {other for other in imports(tree) if other in modules()} for module, tree in modules().items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for other in graph[module]:
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def classes() -> dict[str, type]:
    """All classes of the package by full name."""
    found = {}
    for info in pkgutil.walk_packages([str(SOURCE)], "stc_lab."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for _, one in inspect.getmembers(module, inspect.isclass):
            if one.__module__.startswith("stc_lab"):
                found[f"{one.__module__}.{one.__qualname__}"] = one
    return found


def test_nobody_overrides_a_private_step() -> None:
    """A class may use its own private methods; what differs between relatives is a public method of a contract."""
    overridden = []
    for name, one in classes().items():
        for method in (key for key, value in vars(one).items() if key.startswith("_") and inspect.isfunction(value)):
            if method.startswith("__"):
                continue
            relatives = [base for base in one.__mro__[1:] if base.__module__.startswith("stc_lab")]
            owners = [base for base in relatives if method in vars(base)]
            overridden += [f"{name}.{method} overrides {base.__module__}.{base.__qualname__}" for base in owners]
    assert not overridden, "\n".join(overridden)


def test_the_session_is_final() -> None:
    derived = [name for name, one in classes().items() if stc_lab.StreamSession in one.__mro__[1:]]
    assert not derived


GROUPS = ("backbone", "memory", "cacher", "pruner")
CHOICES = [(group, file.stem) for group in GROUPS for file in sorted((conf_dir() / group).glob("*.yaml"))]


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_a_setting_is_declared_once(group: str, choice: str) -> None:
    """The fields of the dataclass are the keys of the YAML file, and no base class declares one again."""
    node = OmegaConf.load(conf_dir() / group / f"{choice}.yaml")
    target = target_of({"_target_": node._target_})
    assert dataclasses.is_dataclass(target)
    fields = {field.name for field in dataclasses.fields(target) if field.init}
    keys = {key for key in node if key not in ("_target_", "defaults")}
    assert keys <= fields | {"name", "selection"}
    assert fields - keys <= {"name"}


MEMORIES = [module for module in modules() if module.startswith("memories.")]


@pytest.mark.parametrize("module", MEMORIES)
def test_a_memory_imports_no_model_and_makes_no_answer(module: str) -> None:
    tree = modules()[module]
    assert not [other for other in imports(tree) if other.split(".")[0] in ("backbones", "answering", "session")]
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert "Answer" not in [call.id for call in calls if isinstance(call, ast.Name)]


def test_only_one_module_answers() -> None:
    made = [
        module
        for module, tree in modules().items()
        if floor_of(module) < 5
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Answer"
    ]
    assert made == ["answering"]


LIMITS = {"llava_onevision": 18, "livecc": 24, "streamingvlm": 24}


@pytest.mark.parametrize("backbone", LIMITS)
def test_the_way_of_a_frame_can_be_read_in_one_sitting(backbone: str) -> None:
    """Files of the lab whose functions run between ``push`` and the key-value store, but for the types that all rooms
    share and for what takes times and counts operations."""
    memory = "rekv" if backbone == "llava_onevision" else None
    session = stc_lab.open_session(stc_lab.load(backbone), "stc", "stc", memory)
    frames = list(np.random.default_rng(0).integers(0, 255, (14, 54, 54, 3), dtype=np.uint8))
    session.push(frames[:8], [index / 2 for index in range(8)])
    passed: set[str] = set()

    def note(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(str(SOURCE)):
            passed.add(str(Path(frame.f_code.co_filename).relative_to(SOURCE)))

    sys.setprofile(note)
    try:
        session.push(frames[8:], [index / 2 for index in range(8, 14)])
    finally:
        sys.setprofile(None)
    passed = {path for path in passed if path != "types.py" and not path.startswith("measure")}
    assert len(passed) <= LIMITS[backbone], sorted(passed)

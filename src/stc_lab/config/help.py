"""The settings as people see them: ``--help``, a tree in the terminal, ``config.yaml`` in the run folder.

The text of ``python -m stc_lab --help`` is put together from ``conf/``, so that it cannot go stale.
A group's choices are its YAML files, described by their first comment line; a setting is described by the
comment behind it. With overrides on the command line the settings of the chosen methods are shown.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from stc_lab.config.resolvers import conf_dir

INTRODUCTION = """\
stc_lab: streaming token compression for video language models, measured in one run.

A run reads video streams, shows their frames to a video language model one after the other, asks timed
questions, and prints accuracy (with its confidence interval) beside time, FLOPs and memory per stage.
Three kinds of methods make it cheaper: a cacher computes only the vision tokens that changed, a pruner lets
only some tokens of each frame reach the language model, a memory decides what is kept of the stream and what
a question reads of it. The default needs no GPU and no network.

Usage:  python -m stc_lab [GROUP=CHOICE ...] [SETTING=VALUE ...]        (or: stc_lab ...)
        python -m stc_lab -m GROUP=CHOICE,CHOICE SETTING=VALUE,VALUE    (every combination, then their frontier)

Examples:
  python -m stc_lab                                                 the default run, about a minute
  python -m stc_lab pruner.budget=32 baseline=true                  32 tokens per frame, beside the full model
  python -m stc_lab cacher.interval=4 cacher.threshold=0.85         recompute what falls below a cosine of 0.85
  python -m stc_lab -m pruner=stc,random pruner.budget=16,32,64     a frontier: pareto.png, pareto.csv
  python -m stc_lab -m memory=recent,rekv,all                       what the same model keeps of the stream
  python -m stc_lab dataset=folder dataset.videos=DIR               your own videos
  python -m stc_lab trainer=gpu backbone.checkpoint=llava-hf/llava-onevision-qwen2-0.5b-ov-hf
  python -m stc_lab experiment=quickstart                           a ready-made study
  python -m stc_lab hydra.run.dir=DIR                               the same DIR again goes on where it stopped
"""

CLOSING = """\
Results lie in outputs/runs/DATE/TIME/ (config.yaml, environment.json, records.jsonl, summary.json), those of a
multirun in outputs/multirun/DATE/TIME/, one folder per combination.

More:  --cfg job             print the settings of a run without running it (--resolve: with values filled in)
       GROUP=CHOICE --help   the settings of another choice, for instance pruner=stc_gaussian --help
       --info defaults-tree  where each setting comes from
       --hydra-help          all flags
       HYDRA_FULL_ERROR=1    full traceback of an error
       eval "$(stc_lab -sc install=bash)"   tab completion in this shell (fish and zsh: install=fish, install=zsh)
"""

GROUPS = ("backbone", "memory", "cacher", "pruner", "dataset", "trainer", "logger", "method", "experiment", "debug")
WIDEST_SETTING = 48
BASE = re.compile(r"^  - (?:/\w+: )?(\w+)$", re.MULTILINE)
COMMENTED = re.compile(r"^(?P<indent> *)(?P<key>\w+):(?P<rest>.*)$")


def help_text(cfg: DictConfig) -> str:
    """The help for a composed configuration (with its ``hydra`` node), safe for ``string.Template``."""
    chosen = dict(cfg.hydra.runtime.choices)
    parts = [INTRODUCTION, _groups(chosen), _settings(cfg, chosen), CLOSING]
    return "\n".join(parts).replace("$", "$$")


def group_choices() -> dict[str, list[str]]:
    """Choices of every configuration group that is ours, by group, the main ones first."""
    folders = sorted(path.name for path in conf_dir().iterdir() if path.is_dir())
    groups = [*GROUPS, *(name for name in folders if name not in GROUPS)]
    return {group: sorted(file.stem for file in (conf_dir() / group).glob("*.yaml")) for group in groups}


def describe_choice(group: str, choice: str) -> str:
    """First comment line of the choice's YAML file."""
    for line in _lines(group, choice):
        text = line.removeprefix("#").strip()
        if line.startswith("#") and text and not text.startswith("@package"):
            return text
    return ""


def _groups(chosen: dict[str, Any]) -> str:
    lines = ["Groups (GROUP=CHOICE; * is chosen):"]
    for group, choices in group_choices().items():
        if group in ("hydra", "paths"):
            continue  # set by value, not by choice
        lines.append(f"  {group}")
        width = max([14, *map(len, choices)])
        for choice in choices:
            mark = "*" if chosen.get(group) == choice else " "
            lines.append(f"    {mark} {choice:<{width}} {describe_choice(group, choice)}".rstrip())
    return "\n".join(lines) + "\n"


def _settings(cfg: DictConfig, chosen: dict[str, Any]) -> str:
    lines = ["Settings (SETTING=VALUE; shown with their present values):"]
    lines += _setting_lines(cfg, _comments(_lines("", "config")))
    for group in group_choices():
        if group in cfg and chosen.get(group):
            comments = _group_comments(group, chosen[group])
            section = _setting_lines(cfg, {f"{group}.{key}": comment for key, comment in comments.items()})
            lines += ["", *section] if section else []
    return "\n".join(lines) + "\n"


def _group_comments(group: str, choice: str) -> dict[str, str]:
    """Comments of the chosen file, those of the files it builds on first."""
    comments: dict[str, str] = {}
    # "defaults: [- default]" of a group builds on another of its files.
    for base in BASE.findall("\n".join(_lines(group, choice))):
        comments |= _group_comments(group, base)
    return comments | _comments(_lines(group, choice))


def _comments(lines: list[str]) -> dict[str, str]:
    """Dotted key to the comment behind it, for plain settings (one level of nesting)."""
    comments, parent = {}, ""
    for line in lines:
        match = COMMENTED.match(line)
        if match is None:
            continue
        # An indented key belongs to the last one that was not.
        if not match["indent"]:
            parent = match["key"]
        key = f"{parent}.{match['key']}" if match["indent"] else parent
        _, _, comment = match["rest"].partition(" # ")
        if comment:
            comments[key] = comment.strip()
    return comments


def _setting_lines(cfg: DictConfig, comments: dict[str, str]) -> list[str]:
    """One aligned line per setting, values as they are now; groups have no value and are left out."""
    values = {key: OmegaConf.select(cfg, key, throw_on_missing=False) for key in comments}
    texts = {key: f"{key}={shown(value)}" for key, value in values.items() if not OmegaConf.is_dict(value)}
    width = min(max(map(len, texts.values()), default=0), WIDEST_SETTING)
    return [f"  {text:<{width}}  {comments[key]}" for key, text in texts.items()]


def _lines(group: str, choice: str) -> list[str]:
    path = Path(conf_dir(), group, f"{choice}.yaml")
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The settings as a plain dictionary, interpolations resolved. Raises where a required one is missing."""
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


def print_config(cfg: DictConfig, console: Console) -> None:
    """Print the resolved settings as a tree."""
    tree = Tree("settings", guide_style="dim")
    _grow(tree, resolved(cfg))
    console.print(tree)


def save_config(cfg: DictConfig, path: Path) -> None:
    """Write the resolved settings as YAML; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(resolved(cfg))), encoding="utf-8")


def _grow(tree: Tree, settings: dict[str, Any]) -> None:
    """Plain values first, then one branch per group that has any; a group's method stands beside its name."""
    for key, value in settings.items():
        if not isinstance(value, dict) and not key.startswith("_") and key != "name":
            tree.add(Text.assemble(f"{key}: ", (shown(value), "cyan")))
    for key, value in settings.items():
        if isinstance(value, dict):
            label = Text(key, style="bold")
            if value.get("name") is not None:
                label = Text.assemble(label, ": ", (str(value["name"]), "bold cyan"))
            _grow(tree.add(label), value)


def shown(value: Any) -> str:
    """A value as one writes it on the command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)

"""Every experiment: its header tells how to run it, and every point that it describes composes and is valid."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Iterator
from functools import cache

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from stc_lab.config import conf_dir, validate
from stc_lab.config.build import settings_of, target_of
from stc_lab.report.paper import paper_rows

EXPERIMENTS = sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))
ROWS = sorted(path.stem for path in (conf_dir() / "method").glob("*.yaml"))
NEEDED = ("dataset.root=.", "dataset.videos=.")
EQUAL = {"rekv_stc_equal", "rekv_random", "rekv_uniform", "rekv_downsample"}


def text_of(name: str) -> str:
    return (conf_dir() / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")


def points_of(name: str) -> Iterator[list[str]]:
    """Overrides of every point, as Hydra's own sweeper makes them."""
    overrides = [f"experiment={name}", *(f"{key}={value}" for key, value in params_of(name).items())]
    (batch,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(overrides), None)
    yield from batch


def params_of(name: str) -> dict[str, str]:
    return dict(OmegaConf.select(OmegaConf.create(text_of(name)), "hydra.sweeper.params") or {})


@cache
def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def checked(overrides: list[str]) -> DictConfig:
    """The settings of a point after the checks of the command line, but for files that only a user has."""
    cfg = copy.deepcopy(composed(*overrides))
    for key in ("root", "videos"):
        if OmegaConf.is_missing(cfg.dataset, key):
            cfg.dataset[key] = "."
    validate(cfg, with_files=False)
    return cfg


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_first_and_last_point_compose_and_are_valid(name: str) -> None:
    points = list(points_of(name))
    for overrides in points[:: max(1, len(points) - 1)]:
        checked(overrides)
    assert ("(multirun)" in text_of(name)) == (len(points) > 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_point_composes_and_is_valid(name: str) -> None:
    for overrides in points_of(name):
        checked(overrides)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_header_tells_what_it_is_how_to_run_it_and_what_it_shows(name: str) -> None:
    lines = text_of(name).splitlines()
    assert lines[0] == "# @package _global_"
    (command,) = re.findall(r"^#   (python -m stc_lab .*)$", text_of(name), re.MULTILINE)
    words = shlex.split(command)
    assert f"experiment={name}" in words
    assert ("-m" in words[3:]) == ("(multirun)" in lines[1])
    assert any(line.startswith("# Shows") for line in lines)


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name.startswith("table")])
def test_tables_need_a_dataset_that_the_user_has(name: str) -> None:
    overrides = next(points_of(name))
    assert OmegaConf.is_missing(composed(*overrides).dataset, "root")
    assert composed(*overrides, *NEEDED).dataset.root == "."


def test_rows_are_those_of_the_paper() -> None:
    """Same methods, same settings as the printed tables say; and no row is left away."""
    labels = {}
    for name in set(ROWS) - EQUAL:
        cfg = composed(f"method={name}")
        labels[" + ".join([cfg.backbone.name, *(n for n in (cfg.cacher.name, cfg.pruner.name) if n != "none")])] = cfg
    printed = {row.label: row for table in ("ovobench", "streamingbench", "mlvu") for row in paper_rows(table)}
    assert set(labels) == set(printed)
    for label, row in printed.items():
        cfg = labels[label]
        if row.cacher == "stc":
            assert (cfg.cacher.interval, cfg.cacher.update_ratio) == (
                row.settings["interval"], row.settings["update_ratio"])  # fmt: skip
        if row.pruner != "none":
            assert cfg.pruner.keep_ratio == row.settings["keep_ratio"]


@pytest.mark.parametrize(("name", "table"), [("table1", "ovobench"), ("table2", "streamingbench"), ("table3", "mlvu")])
def test_tables_have_the_rows_of_the_paper(name: str, table: str) -> None:
    cfgs = [composed(f"method={row}") for row in params_of(name)["method"].split(",")]
    methods = {(cfg.backbone.name, cfg.cacher.name, cfg.pruner.name) for cfg in cfgs}
    assert methods == {(row.backbone, row.cacher, row.pruner) for row in paper_rows(table)}


def test_equal_budgets_are_equal() -> None:
    kept = set()
    for row in params_of("table1_equal_budget")["method"].split(","):
        cfg = composed(f"method={row}")
        if cfg.cacher.name == "tome":
            kept.add(cfg.cacher.num_tokens)
        elif cfg.pruner.name != "none":
            pruner = target_of(settings_of(cfg.pruner))
            kept.add(pruner(keep_ratio=cfg.pruner.keep_ratio).num_kept(cfg.backbone.tokens_per_frame))
    assert kept == {49}


@pytest.mark.parametrize("name", ["methods_pocket", "cacher_x_pruner", "frontier"])
def test_a_comparison_of_methods_has_the_uncompressed_run_and_a_trivial_baseline(name: str) -> None:
    assert {"none", "random"} <= set(params_of(name)["pruner"].split(","))
    assert "none" in params_of(name).get("cacher", "none").split(",")


def test_methods_pocket_has_every_pruner() -> None:
    there = set(params_of("methods_pocket")["pruner"].split(","))
    assert there == {path.stem for path in (conf_dir() / "pruner").glob("*.yaml")}

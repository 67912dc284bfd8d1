"""Every W&B sweep: W&B's own code makes commands of it, each of which Hydra composes."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sweep_utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")

from hydra import compose, initialize_config_dir  # noqa: E402

from stc_lab.config import conf_dir, validate  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[2]
SWEEPS = sorted((REPOSITORY / "sweeps").glob("*.yaml"))
KEYS = {"program", "name", "project", "method", "metric", "parameters", "command"}


@pytest.fixture(autouse=True)
def _backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sweep takes its backbone from the environment of the agent."""
    monkeypatch.setenv("BACKBONE", "rekv")


def commands(path: Path) -> Iterator[list[str]]:
    """What an agent runs for every point of the grid: macros are replaced as in its ``_command_run``."""
    config = sweep_utils.load_sweep_config(str(path))
    names = list(config["parameters"])
    for values in itertools.product(*(config["parameters"][name]["values"] for name in names)):
        arguments = {name: {"value": value} for name, value in zip(names, values, strict=True)}
        variables = sweep_utils.create_sweep_command_args({"args": arguments})
        variables |= {"interpreter": ["python"], "program": [config["program"]], "env": ["/usr/bin/env"]}
        command = []
        for word in sweep_utils.create_sweep_command(list(config["command"])):
            is_macro = word.startswith("${") and word.endswith("}")
            command += variables[word[2:-1]] if is_macro else [word]
        yield command


def composed(command: list[str]):
    assert command[:4] == ["/usr/bin/env", "python", "-m", "stc_lab"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", overrides=command[4:], return_hydra_config=False)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_sweep_file_has_what_wandb_asks_for(path: Path) -> None:
    config = sweep_utils.load_sweep_config(str(path))
    assert set(config) == KEYS
    assert (config["method"], config["metric"]) == ("grid", {"name": "axis/accuracy", "goal": "maximize"})
    assert path.stem == config["name"]
    for name, values in config["parameters"].items():
        assert list(values) == ["values"] and values["values"], name
        assert None not in values["values"], f"{name}: W&B writes null as None, which Hydra reads as text"


def settings(command: list[str]):
    cfg = composed([word for word in command if not word.startswith("hydra.run.dir")])
    validate(cfg)
    return cfg


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_first_and_last_command_compose(path: Path) -> None:
    everything = list(commands(path))
    first, last = (settings(everything[index]) for index in (0, -1))
    chosen = [(cfg.backbone, cfg.memory, cfg.cacher, cfg.pruner) for cfg in (first, last)]
    assert chosen[0] != chosen[1]


@pytest.mark.slow
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_command_composes(path: Path) -> None:
    cfgs = [settings(command) for command in commands(path)]
    points = [repr((cfg.backbone, cfg.memory, cfg.cacher, cfg.pruner)) for cfg in cfgs if cfg.pruner.name != "none"]
    assert len(set(points)) == len(points), "the same point twice"


@pytest.mark.parametrize("backbone", ["rekv", "recent", "streamforest", "dispider", "livecc", "streamingvlm"])
def test_every_backbone_has_a_budget_frontier(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if backbone != "streamforest":
        monkeypatch.setenv("BACKBONE", backbone)
    (points,) = (
        points for path in SWEEPS if path.stem.startswith("budget_frontier")
        if (points := [command for command in commands(path) if f"backbone={backbone}" in command])
    )  # fmt: skip
    assert {f"pruner={name}" for name in ("stc", "random", "uniform")} <= {word for words in points for word in words}
    assert len({word for words in points for word in words if word.startswith("pruner.budget=")}) >= 5
    for command in (points[0], points[-1]):
        settings(command)


def test_null_reaches_hydra_as_null() -> None:
    (path,) = [path for path in SWEEPS if path.stem == "cacher_interval_and_ratio"]
    command = next(command for command in commands(path) if "cacher.interval=null" in command)
    assert settings(command).cacher.interval is None


@pytest.mark.slow
def test_a_command_runs_in_the_folder_of_its_sweep(tmp_path: Path) -> None:
    (path,) = [path for path in SWEEPS if path.stem == "methods"]
    command = [sys.executable if word == "python" else word for word in next(commands(path))]
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_SWEEP_ID": "abc", "WANDB_RUN_ID": "r1",
                                "WANDB_SILENT": "true", "PYTHONPATH": str(REPOSITORY / "src")}  # fmt: skip
    done = subprocess.run([*command, "dataset.limit=1", "trainer.accelerator=cpu"], cwd=tmp_path, env=environment,
                          capture_output=True, text=True, timeout=600, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "wandb" / "abc" / "r1"
    assert (folder / "summary.json").is_file()
    assert list(folder.glob("wandb/offline-run-*/*.wandb"))

"""Types of the settings that belong to no method.

Hydra merges ``conf/config.yaml`` into :class:`Config`, so a wrong type or an unknown key fails while the
command line is read. ``metadata`` carries what a type cannot say (choices, smallest value); ``validate``
reads it. Settings of backbones, cachers, pruners and datasets are declared by the classes themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stc_lab.results.axes import COSTS

READERS = ("decord", "pyav")
ACCELERATORS = ("auto", "cpu", "cuda", "gpu", "mps")
PRECISIONS = ("32-true", "bf16-true", "16-true")
PROFILERS = (None, "simple", "advanced")


def setting(default: Any, **metadata: Any) -> Any:
    """A field with its rule: ``choices=(...)``, ``minimum=n`` (inclusive) or ``above=n`` (exclusive)."""
    return field(default=default, metadata=metadata)


@dataclass
class VideoSettings:
    """How videos are read."""

    reader: str = setting("decord", choices=READERS)
    timeout_s: float = setting(60.0, above=0)


@dataclass
class MeasureSettings:
    """What is left out of the latency statistics, and what is looked at besides."""

    warmup_frames: int = setting(2, minimum=0)
    warmup_questions: int = setting(1, minimum=0)
    fidelity: bool = False
    token_maps: int = setting(0, minimum=0)


@dataclass
class TrainerSettings:
    """Where the run computes."""

    accelerator: str = setting("auto", choices=ACCELERATORS)
    devices: int = setting(1, minimum=1)
    precision: str = setting("32-true", choices=PRECISIONS)
    num_threads: int | None = setting(None, minimum=1)
    profiler: str | None = setting(None, choices=PROFILERS)


@dataclass
class PathSettings:
    """Folders."""

    output_dir: str = "outputs"
    cache_dir: str = "~/.cache/stc_lab"
    run_dir: str | None = None


@dataclass
class ReportSettings:
    """What is made of a multirun when it is through."""

    cost: str = setting("latency", choices=tuple(COSTS))
    baseline: str = "auto"
    page: bool = True
    token_maps: int = setting(6, minimum=0)
    wandb: bool = False
    project: str = "stc_lab"


@dataclass
class Config:
    """A whole run. The groups typed ``Any`` are checked against the class they name in ``_target_``."""

    seed: int = setting(0, minimum=0)
    baseline: bool = False
    retry_failed: bool = False
    objective: Any = "accuracy"
    print_config: bool = True
    video: VideoSettings = field(default_factory=VideoSettings)
    measure: MeasureSettings = field(default_factory=MeasureSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    paths: PathSettings = field(default_factory=PathSettings)
    report: ReportSettings = field(default_factory=ReportSettings)
    memory: Any = None
    backbone: Any = None
    cacher: Any = None
    pruner: Any = None
    dataset: Any = None
    logger: Any = None


PLUGIN_GROUPS = ("pruner", "cacher", "dataset", "logger", "memory", "backbone")
"""In the order in which they are checked: the module of a backbone takes longest to import."""

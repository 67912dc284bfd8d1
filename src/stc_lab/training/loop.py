"""A small resumable training loop: fixed steps, cosine schedule, checkpoints, a log and a progress bar."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

SAVE_EVERY_S = 60.0


@dataclass
class Stage:
    """One stage: ``loss(step)`` returns the loss and what to log; ``optimizers`` are stepped together."""

    name: str
    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    loss: Callable[[int], tuple[Tensor, dict[str, float]]]
    num_steps: int
    warmup_steps: int = 50
    final_lr_ratio: float = 0.05


def run_stage(stage: Stage, folder: Path) -> None:
    """Train ``stage`` to its end, going on from ``folder/<name>.pt`` if it is there; a finished stage is loaded."""
    path = folder / f"{stage.name}.pt"
    base_lrs = [[group["lr"] for group in o.param_groups] for o in stage.optimizers]
    start = _load(stage, path)
    saved_at, log = time.monotonic(), _Log(folder / f"{stage.name}.log")
    for step in _progress(range(start, stage.num_steps), stage, start):
        _set_lr(stage, base_lrs, step)
        loss, metrics = stage.loss(step)
        loss.backward()
        nn.utils.clip_grad_norm_(stage.model.parameters(), 1.0)
        for optimizer in stage.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        log.add(step, metrics)
        if time.monotonic() - saved_at > SAVE_EVERY_S:
            _save(stage, path, step + 1)
            saved_at = time.monotonic()
    if start < stage.num_steps:
        _save(stage, path, stage.num_steps)


def run_vision_stage(
    name: str,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    folder: Path,
    num_steps: int,
    batch: int,
    seed: int = 1,
) -> None:
    """A stage on ``model.loss(rng, batch)``, fresh pictures in every step."""
    loss = lambda step: model.loss(np.random.default_rng([seed, step]), batch)  # noqa: E731
    run_stage(Stage(name, model, optimizers, loss, num_steps), folder)


def stage_weights(folder: Path, stage: str) -> dict[str, Tensor]:
    """The weights of the model as ``stage`` left them."""
    return torch.load(folder / f"{stage}.pt", weights_only=True)["model"]


def _set_lr(stage: Stage, base_lrs: list[list[float]], step: int) -> None:
    progress = step / max(1, stage.num_steps - 1)
    cosine = stage.final_lr_ratio + (1 - stage.final_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
    factor = min(1.0, (step + 1) / max(1, stage.warmup_steps)) * cosine
    for optimizer, lrs in zip(stage.optimizers, base_lrs, strict=True):
        for group, lr in zip(optimizer.param_groups, lrs, strict=True):
            group["lr"] = lr * factor


def _load(stage: Stage, path: Path) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    stage.model.load_state_dict(state["model"])
    for optimizer, saved in zip(stage.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"]


def _save(stage: Stage, path: Path, step: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    optimizers = [optimizer.state_dict() for optimizer in stage.optimizers]
    partial = path.with_suffix(".partial")
    torch.save({"model": stage.model.state_dict(), "optimizers": optimizers, "step": step}, partial)
    partial.replace(path)


def _progress(steps: range, stage: Stage, start: int) -> Iterable[int]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(stage.name, total=stage.num_steps, completed=start)
        for step in steps:
            yield step
            progress.advance(task)


class _Log:
    """Means of the metrics over 20 steps, appended to a log file."""

    def __init__(self, path: Path, every: int = 20) -> None:
        self._path, self._every, self._sums, self._counts = path, every, {}, {}
        self._started = time.monotonic()

    def add(self, step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1
        if (step + 1) % self._every == 0:
            self._flush(step)

    def _flush(self, step: int) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        means = [f"{name}={self._sums[name] / self._counts[name]:.4f}" for name in sorted(self._sums)]
        with self._path.open("a") as file:
            file.write(f"step={step + 1} seconds={time.monotonic() - self._started:.0f} {' '.join(means)}\n")
        self._sums, self._counts = {}, {}

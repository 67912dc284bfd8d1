"""A small resumable training loop: fixed steps, cosine schedule, checkpoints, a log and a progress bar."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn


def muon_and_adamw(
    model: nn.Module,
    layers: nn.Module,
    muon_lr: float,
    adamw_lr: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
) -> list[torch.optim.Optimizer]:
    """``layers``: the part of ``model`` whose matrices Muon takes; what is frozen is left out."""
    matrices = [parameter for parameter in layers.parameters() if parameter.ndim == 2]
    chosen = {id(parameter) for parameter in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen and p.requires_grad]
    return [
        torch.optim.Muon(matrices, lr=muon_lr, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=adamw_lr, betas=betas, weight_decay=weight_decay),
    ]


SAVE_EVERY_S = 60.0


@dataclass
class Training:
    """What runs: ``loss(step)`` returns the loss and what to log; ``optimizers`` are stepped together."""

    name: str
    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    loss: Callable[[int], tuple[Tensor, dict[str, float]]]
    num_steps: int
    warmup_steps: int = 50
    final_lr_ratio: float = 0.05


def train(run: Training, folder: Path) -> None:
    """Train ``run`` to its end, going on from ``folder/<name>.pt`` if it is there; a finished stage is loaded."""
    path = folder / f"{run.name}.pt"
    base_lrs = [[group["lr"] for group in o.param_groups] for o in run.optimizers]
    # Weights, optimisers and step of an earlier run, if there was one.
    start = _load(run, path)
    saved_at, log = time.monotonic(), _Log(folder / f"{run.name}.log")
    for step in _progress(range(start, run.num_steps), run, start):
        # The rate depends on the step alone, so that a resumed run goes on with the same one.
        _set_lr(run, base_lrs, step)
        loss, metrics = run.loss(step)
        loss.backward()
        nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        for optimizer in run.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        log.add(step, metrics)
        if time.monotonic() - saved_at > SAVE_EVERY_S:
            _save(run, path, step + 1)
            saved_at = time.monotonic()
    # The last checkpoint is what the next stage begins with.
    if start < run.num_steps:
        _save(run, path, run.num_steps)


def stage_weights(folder: Path, stage: str) -> dict[str, Tensor]:
    """The weights of the model as ``stage`` left them."""
    return torch.load(folder / f"{stage}.pt", weights_only=True)["model"]


def _set_lr(run: Training, base_lrs: list[list[float]], step: int) -> None:
    progress = step / max(1, run.num_steps - 1)
    cosine = run.final_lr_ratio + (1 - run.final_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
    factor = min(1.0, (step + 1) / max(1, run.warmup_steps)) * cosine
    for optimizer, lrs in zip(run.optimizers, base_lrs, strict=True):
        for group, lr in zip(optimizer.param_groups, lrs, strict=True):
            group["lr"] = lr * factor


def _load(run: Training, path: Path) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    run.model.load_state_dict(state["model"])
    for optimizer, saved in zip(run.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"]


def _save(run: Training, path: Path, step: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    optimizers = [optimizer.state_dict() for optimizer in run.optimizers]
    partial = path.with_suffix(".partial")
    torch.save({"model": run.model.state_dict(), "optimizers": optimizers, "step": step}, partial)
    partial.replace(path)


def _progress(steps: range, run: Training, start: int) -> Iterable[int]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(run.name, total=run.num_steps, completed=start)
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

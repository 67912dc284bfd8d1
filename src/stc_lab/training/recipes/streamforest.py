"""The pocket model of StreamForest: ReKV's tower as it is, its projector and its language model taught the memory.

Stages (see ``docs/pocket.md``): projector (places and times, on fresh pictures), views (what the memory hands over,
on disk), memory (projector and language model on those).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from stc_lab.backbones.checkpoints import POCKET_ROOT
from stc_lab.backbones.streamforest.checkpoint import StreamForestModel, save_streamforest
from stc_lab.memories.streamforest import ForestSizes
from stc_lab.training.language import Ahead
from stc_lab.training.loop import Stage, run_stage, stage_weights
from stc_lab.training.models.streamforest import POCKET_SIZES, new_pocket_streamforest, pocket_tokenizer
from stc_lab.training.streamforest import ForestLearner, PlacedProjector
from stc_lab.training.streamforest_batches import ForestEncoder, ViewBatches, ViewMix
from stc_lab.training.streamforest_views import ViewShelf

NUM_STREAMS = {12: 700, 28: 160}
VIEWS_PER_STREAM = {12: 6, 28: 9}
MIXES = {
    0: ViewMix((0.1, 0.2, 0.35), (0.4, 0.4, 0.2)),
    400: ViewMix((0.1, 0.2, 0.35, 0.5, 1.0), (0.15, 0.3, 0.2, 0.2, 0.15)),
}


def train_projector(folder: Path, num_steps: int = 400, batch: int = 5) -> None:
    """The projector alone, about 1.5 CPU minutes."""
    learner = PlacedProjector(model := new_pocket_streamforest())
    optimizer = torch.optim.AdamW(model.projector.parameters(), lr=2e-3, weight_decay=0.0)
    loss = lambda step: learner.loss(np.random.default_rng([7, step]), batch)  # noqa: E731
    run_stage(Stage("projector", learner, [optimizer], loss, num_steps), folder)


def build_views(folder: Path, num_streams: Mapping[int, int] = NUM_STREAMS) -> ViewShelf:
    """What ReKV's tower and the memory make of h264 streams, about 8 CPU minutes and 1.7 GB on disk."""
    shelf = ViewShelf(folder / "views", num_streams, VIEWS_PER_STREAM)
    shelf.build(new_pocket_streamforest().eval(), ForestSizes(**POCKET_SIZES))
    return shelf


def train_memory(
    folder: Path,
    num_steps: int = 1500,
    num_streams: Mapping[int, int] = NUM_STREAMS,
    mixes: Mapping[int, ViewMix] = MIXES,
) -> None:
    """Projector and language model on what the memory hands over, about 25 CPU minutes."""
    encoder = ForestEncoder(pocket_tokenizer())
    learner = ForestLearner(model := trained(folder, "projector"), encoder)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1.2e-3, betas=(0.9, 0.95), weight_decay=0.01)
    source = Ahead(ViewBatches(build_views(folder, num_streams), encoder, mixes, seed=8))
    run_stage(Stage("memory", learner, [optimizer], lambda step: learner.loss(source[step]), num_steps), folder)


def trained(folder: Path, stage: str) -> StreamForestModel:
    """The model as ``stage`` left it."""
    model = new_pocket_streamforest(warm_start=False)
    state = stage_weights(folder, stage)
    model.load_state_dict({name.removeprefix("model."): state[name] for name in state if name.startswith("model.")})
    return model


def export_streamforest(folder: Path, target: Path = POCKET_ROOT / "streamforest") -> None:
    """Write the trained model where ``backbone=streamforest backbone.checkpoint=pocket`` finds it."""
    save_streamforest(trained(folder, "memory"), pocket_tokenizer(), target, POCKET_SIZES)


STAGES = {
    "projector": train_projector,
    "views": build_views,
    "memory": train_memory,
    "export": export_streamforest,
}

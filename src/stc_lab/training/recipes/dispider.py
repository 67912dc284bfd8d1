"""The pocket model of Dispider, from the shipped pocket of ReKV.

Stages (see ``docs/dispider.md``): vision (tower and projectors of patches), compressor (memories, decision, retrieval)
and clips (the same on every token), binding (letters to options in another prompt), reaction (language model on the
clips, memories and summaries that the frozen compressor makes).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from stc_lab.backbones.checkpoints import POCKET_ROOT
from stc_lab.training import dispider_vision
from stc_lab.training.batches import CELLS, BindingBatches, Mix
from stc_lab.training.dispider_clips import ClipBatches, ClipMix, clip_loss
from stc_lab.training.dispider_compressor import Compressor
from stc_lab.training.dispider_reaction import DispiderQuestions, ReactionBatches, ReactionModel, Rememberer
from stc_lab.training.dispider_shelf import ClipShelf, build_clip_shelf
from stc_lab.training.dispider_vision import DispiderVision
from stc_lab.training.loop import Stage, run_stage, run_vision_stage, stage_weights
from stc_lab.training.models.dispider import new_pocket_dispider, pocket_tokenizer, save_pocket_dispider
from stc_lab.training.optimizers import muon_and_adamw

SIZES = {12: 480, 28: 70}
"""Streams per duration in seconds."""
PARTLY = {0: ClipMix(40, 4500, 0, 0), 200: ClipMix(40, 4000), 520: ClipMix(CELLS, 5000, 8, 4)}
WHOLE = {0: ClipMix(40, 4000, 12, 3, by_color=True), 250: ClipMix(CELLS, 6000, 10, 4, by_color=True)}
"""At first what memories hold, then what is read from them, also by colour; last without leaving out the ground."""
BUDGETS = (8, 16, 32, 64, 128, 196)
SHORT = Mix(BUDGETS, (0.05, 0.15, 0.2, 0.25, 0.15, 0.2), duration_weights=(0.75, 0.25), tokens_per_batch=3000)
READ = {0: SHORT, 150: replace(SHORT, long_at_most=CELLS)}


def train_vision(folder: Path, num_steps: int = 450, batch: int = 8) -> DispiderVision:
    """Tower and projectors of patches, about 7 CPU minutes."""
    vision = DispiderVision(new_pocket_dispider())
    vision.start_norm(np.random.default_rng(0))
    run_vision_stage("vision", vision, dispider_vision.optimizers(vision), folder, num_steps, batch)
    return vision


def build_shelves(folder: Path, sizes: Mapping[int, int] = SIZES) -> dict[int, ClipShelf]:
    """What the tower says about real h264 streams, about 6 CPU minutes and 0.8 GB on disk."""
    vision = _trained(DispiderVision(new_pocket_dispider()), folder, "vision")
    return {duration: build_clip_shelf(vision, duration, number, folder) for duration, number in sizes.items()}


def train_compressor(
    folder: Path, num_steps: int = 600, mixes: Mapping[int, ClipMix] = PARTLY, sizes: Mapping[int, int] = SIZES
) -> Compressor:
    """Memories, decision and retrieval on frozen tokens; at first without most of the ground. About 10 CPU minutes."""
    batches = ClipBatches(build_shelves(folder, sizes), mixes, seed=2)
    return _compressor_stage(folder, "compressor", _new_compressor(), batches, num_steps, muon_lr=0.01)


def train_clips(
    folder: Path, num_steps: int = 400, mixes: Mapping[int, ClipMix] = WHOLE, sizes: Mapping[int, int] = SIZES
) -> Compressor:
    """The compressor with memories that also tell shapes by their colours, in the end on every token, as in use.

    About 8 CPU minutes.
    """
    batches = ClipBatches(build_shelves(folder, sizes), mixes, seed=5)
    compressor = _trained(_new_compressor(), folder, "compressor")
    return _compressor_stage(folder, "clips", compressor, batches, num_steps, muon_lr=0.01)


def train_binding(folder: Path, num_steps: int = 200) -> ReactionModel:
    """Letters to options in Dispider's prompt, text only, about 2 CPU minutes."""
    reaction = _new_reaction()
    batches = BindingBatches(reaction.encoder, seed=6)
    optimizer = torch.optim.AdamW(reaction.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01)
    loss = lambda step: reaction.binding_loss(batches[step])  # noqa: E731
    run_stage(Stage("binding", reaction, [optimizer], loss, num_steps), folder)
    return reaction


def train_reaction(
    folder: Path, num_steps: int = 400, mixes: Mapping[int, Mix] = READ, sizes: Mapping[int, int] = SIZES
) -> ReactionModel:
    """The language model at all budgets, on what judge and compressor hand it. About 10 CPU minutes."""
    rememberer = Rememberer(_trained(_new_compressor(), folder, "clips"))
    batches = ReactionBatches(build_shelves(folder, sizes), rememberer, dict(mixes), seed=3)
    reaction = _trained(_new_reaction(), folder, "binding").train()
    optimizer = torch.optim.AdamW(reaction.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01)
    run_stage(Stage("reaction", reaction, [optimizer], lambda step: reaction.loss(batches[step]), num_steps), folder)
    return reaction


def export_dispider(folder: Path, target: Path = POCKET_ROOT / "dispider") -> None:
    """Write the trained model where ``backbone=dispider backbone.checkpoint=pocket`` finds it."""
    model = new_pocket_dispider()
    _trained(DispiderVision(model), folder, "vision")
    _trained(Compressor(model, pocket_tokenizer()), folder, "clips")
    _trained(ReactionModel(model, DispiderQuestions(pocket_tokenizer())), folder, "reaction")
    save_pocket_dispider(model.eval(), target)


def _new_compressor() -> Compressor:
    return Compressor(new_pocket_dispider(), pocket_tokenizer())


def _new_reaction() -> ReactionModel:
    return ReactionModel(new_pocket_dispider(), DispiderQuestions(pocket_tokenizer()))


def _compressor_stage(
    folder: Path, name: str, compressor: Compressor, batches: ClipBatches, num_steps: int, muon_lr: float
) -> Compressor:
    loss = lambda step: clip_loss(compressor, batches[step])  # noqa: E731
    optimizers = muon_and_adamw(
        compressor, compressor.decoder.layers, muon_lr, 0.15 * muon_lr, betas=(0.9, 0.95), weight_decay=0.01
    )
    run_stage(Stage(name, compressor.train(), optimizers, loss, num_steps), folder)
    return compressor


def _trained(model: nn.Module, folder: Path, stage: str) -> nn.Module:
    """``model`` with the weights of a stage, in place."""
    model.load_state_dict(stage_weights(folder, stage))
    return model.eval()


STAGES = {
    "vision": train_vision,
    "shelves": build_shelves,
    "compressor": train_compressor,
    "clips": train_clips,
    "binding": train_binding,
    "reaction": train_reaction,
    "export": export_dispider,
}

"""The pocket model of ReKV, from which the others start.

Stages (see ``docs/pocket.md``): vision (tower and projector), words (language model on symbols), streams (language
model on what the tower really says).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.data import Dataset

from stc_lab.backbones.checkpoints import POCKET_ROOT
from stc_lab.pocket.tokenizer import build_tokenizer
from stc_lab.training import vision
from stc_lab.training.batches import (
    CELLS,
    HARD,
    BindingBatches,
    Mix,
    QuestionEncoder,
    StillBatches,
    SymbolBatches,
)
from stc_lab.training.export import assemble, export
from stc_lab.training.features import Shelf, TokenBatches, build_shelf
from stc_lab.training.language import Ahead, LanguageModel
from stc_lab.training.loop import Stage, run_stage, run_vision_stage, stage_weights
from stc_lab.training.models.llava import new_pocket


def train_vision(folder: Path, num_steps: int = 1400, batch: int = 12) -> vision.VisionModel:
    """Tower and projector, about 25 CPU minutes."""
    model = vision.VisionModel(new_pocket(build_tokenizer()))
    run_vision_stage("vision", model, vision.optimizers(model), folder, num_steps, batch)
    return model


def _language(
    folder: Path,
    name: str,
    start: str | None,
    batches: Dataset,
    num_steps: int,
    lr: float,
    final_lr_ratio: float = 0.05,
) -> LanguageModel:
    """One stage on labels instead of pictures; ``start`` names the stage whose weights it begins with."""
    model = LanguageModel(new_pocket(tokenizer := build_tokenizer()), QuestionEncoder(tokenizer))
    if start is None:
        model.start_words_from_code()
    else:
        model.load_state_dict(stage_weights(folder, start))
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.01)
    source = Ahead(batches)
    loss = lambda step: model.symbol_loss(source[step])  # noqa: E731
    run_stage(Stage(name, model, [optimizer], loss, num_steps, final_lr_ratio=final_lr_ratio), folder)
    return model


def train_binding(folder: Path, num_steps: int = 250) -> LanguageModel:
    """Letters to options, text only, about 3 CPU minutes."""
    batches = BindingBatches(QuestionEncoder(build_tokenizer()), seed=2)
    return _language(folder, "binding", None, batches, num_steps, 1e-3)


def train_stills(folder: Path, num_steps: int = 700) -> LanguageModel:
    """Questions about now on single labelled pictures, about 6 CPU minutes."""
    batches = StillBatches(QuestionEncoder(build_tokenizer()), seed=5)
    return _language(folder, "stills", "binding", batches, num_steps, 1.5e-3)


def train_words(folder: Path, num_steps: int = 1800) -> LanguageModel:
    """The language model on the visual code of labelled streams, few tokens a frame, about 25 CPU minutes."""
    few = Mix((6, 12, 24, 48), (0.3, 0.35, 0.25, 0.1), (8, 12, 28), (0.35, 0.5, 0.15))
    more = Mix((10, 16, 28, 48), (0.25, 0.35, 0.25, 0.15), (8, 12, 28), (0.15, 0.7, 0.15))
    batches = SymbolBatches(QuestionEncoder(build_tokenizer()), {0: few, 400: more}, seed=3)
    return _language(folder, "words", "stills", batches, num_steps, 1.5e-3, final_lr_ratio=0.5)


def build_shelves(folder: Path, sizes: tuple[tuple[int, int], ...] = ((12, 1000), (28, 160))) -> dict[int, Shelf]:
    """What the tower says about real h264 streams, about 10 CPU minutes and 0.9 GB on disk."""
    model = train_vision(folder).eval()
    return {duration: build_shelf(model, duration, number, folder) for duration, number in sizes}


def train_streams(folder: Path, num_steps: int = 3200) -> LanguageModel:
    """The language model on real tokens at all budgets, two fifths of the time at 128 and 196, about 45 CPU minutes."""
    encoder = QuestionEncoder(build_tokenizer())
    short = Mix((8, 16, 32, 64, 128, 196), (0.05, 0.16, 0.20, 0.20, 0.18, 0.21))
    long = replace(short, duration_weights=(0.7, 0.3), long_at_most=CELLS)  # positions as far as a full window's
    late = replace(long, emphasis=HARD | {"which_gone": 5.0})  # learnt last of all
    source = Ahead(TokenBatches(build_shelves(folder), encoder, {0: short, 1000: long, 1400: late}, seed=4))
    model = LanguageModel(new_pocket(encoder.tokenizer), encoder)
    model.load_state_dict(stage_weights(folder, "words"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.2e-3, betas=(0.9, 0.95), weight_decay=0.01)
    run_stage(Stage("streams", model, [optimizer], lambda step: model.loss(*source[step]), num_steps), folder)
    return model


def export_rekv(folder: Path, target: Path = POCKET_ROOT / "rekv") -> None:
    """Write the trained model where ``backbone=rekv backbone.checkpoint=pocket`` finds it."""
    export(assemble(folder / "vision.pt", folder / "streams.pt"), target)


STAGES = {
    "vision": train_vision,
    "binding": train_binding,
    "stills": train_stills,
    "words": train_words,
    "shelves": build_shelves,
    "streams": train_streams,
    "export": export_rekv,
}

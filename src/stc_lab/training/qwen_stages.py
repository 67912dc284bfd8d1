"""Stages of the recipes of LiveCC and StreamingVLM, which differ in architecture, turns and number of steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import load_file
from transformers import PreTrainedModel

from stc_lab.backbones.checkpoints import POCKET_ROOT
from stc_lab.training import qwen_language, qwen_vision
from stc_lab.training.language import Ahead
from stc_lab.training.loop import Stage, run_stage, run_vision_stage, stage_weights
from stc_lab.training.models.qwen_vl import save_pocket
from stc_lab.training.qwen_batches import TurnBatches, TurnMix
from stc_lab.training.qwen_language import QwenLanguage
from stc_lab.training.qwen_shelf import PairShelf, build_shelf
from stc_lab.training.qwen_strips import Words
from stc_lab.training.qwen_turns import LAYOUTS
from stc_lab.training.warm import warm_start

SEEDS = {
    "vision": 11, "sharper": 17, "places": 15, "words": 12, "binding": 16, "streams": 13, "longer": 18, "speech": 19,
    "fluency": 20,
}  # fmt: skip
ADAMW_LR = 1e-3
New = Callable[[], PreTrainedModel]


def train_vision(
    new: New, folder: Path, num_steps: int, batch: int = 8, *, name: str = "vision", start: str | None = None
) -> qwen_vision.QwenVision:
    """Tower and merger of a model made by ``new``, from the ReKV pocket on, or from stage ``start`` on."""
    model = new()
    qwen_vision.look_at_second_frame(model.model.visual)
    vision = qwen_vision.QwenVision(model)
    if start is not None:
        vision.load_state_dict(stage_weights(folder, start))
    run_vision_stage(name, vision, qwen_vision.optimizers(vision), folder, num_steps, batch, SEEDS[name])
    return vision


def build_shelves(
    new: New, folder: Path, sizes: Mapping[int, int], vision_stage: str = "vision"
) -> dict[int, PairShelf]:
    """What the tower of a stage says about real h264 streams; ``sizes``: duration in seconds to number."""
    vision = qwen_vision.QwenVision(new())
    vision.load_state_dict(stage_weights(folder, vision_stage))
    return {duration: build_shelf(vision.eval(), duration, number, folder) for duration, number in sizes.items()}


def train_language(
    backbone: str,
    model: PreTrainedModel,
    folder: Path,
    name: str,
    mixes: Mapping[int, TurnMix],
    num_steps: int,
    *,
    start: str | None = None,
    shelves: Mapping[int, PairShelf] | None = None,
    muon_lr: float = 0.006,
    final_lr_ratio: float = 0.05,
) -> QwenLanguage:
    """Stage ``name`` (a key of ``SEEDS``) on turns of ``backbone``; ``start``: the stage whose weights it begins with,
    else as ``model`` is."""
    language = QwenLanguage(model, words := Words())
    if name == "places":
        language.start_phrases()
    if start is not None:
        language.load_state_dict(stage_weights(folder, start))
    source = Ahead(TurnBatches(LAYOUTS[backbone](words), mixes, SEEDS[name], shelves))
    optimizers = qwen_language.optimizers(language, muon_lr, ADAMW_LR)
    one_loss = language.place_loss if name == "places" else language.loss
    loss = lambda step: one_loss(source[step])  # noqa: E731
    run_stage(Stage(name, language, optimizers, loss, num_steps, final_lr_ratio=final_lr_ratio), folder)
    return language


def with_language_of(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """``model`` with the text model of another pocket checkpoint of the same sizes and words.

    Raises ``ValueError`` where nothing fits.
    """
    weights = load_file(folder / "model.safetensors")
    warm_start(model.model.language_model, weights, {"": "model."})
    model.tie_weights()
    return model


def export(
    backbone: str,
    model: PreTrainedModel,
    folder: Path,
    target: Path | None = None,
    stages: tuple[str, str] = ("vision", "fluency"),
) -> Path:
    """Write the model, from its last vision and language ``stages``, where ``backbone.checkpoint=pocket`` finds it."""
    vision, language = qwen_vision.QwenVision(model), QwenLanguage(model, Words())
    vision.load_state_dict(stage_weights(folder, stages[0]))
    language.load_state_dict(stage_weights(folder, stages[1]))
    model.tie_weights()
    return save_pocket(model.eval(), target or POCKET_ROOT / backbone, backbone)

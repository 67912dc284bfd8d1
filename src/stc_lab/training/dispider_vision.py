"""Dispider's vision stage: the trained tower gets used to its new patches, both projectors say the visual code."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from stc_lab.backbones.dispider.checkpoint import SquarePreprocessor
from stc_lab.backbones.dispider.networks import DispiderModel, mix
from stc_lab.pocket.world.codec import codec_like
from stc_lab.pocket.world.labels import BACKGROUND, CellLabels, cell_labels
from stc_lab.pocket.world.render import Renderer
from stc_lab.training.codes import VisualCode
from stc_lab.training.models.dispider import PIXELS, SIZES
from stc_lab.training.optimizers import muon_and_adamw
from stc_lab.training.vision import DenseHead, dense_scene
from stc_lab.vision import ClipTower

PATCHES = SIZES.vision["image_size"] // SIZES.vision["patch_size"]
PREPROCESS = SquarePreprocessor.from_config(PIXELS, SIZES.vision["image_size"])


class DispiderVision(nn.Module):
    """What the vision stage trains: the tower and both projectors of patches, with a probe that is thrown away."""

    def __init__(self, model: DispiderModel) -> None:
        super().__init__()
        self.vision, self.projectors = model.vision, nn.ModuleList([model.mm_projector["mlp"], model.clip_projector])
        self.tower = ClipTower(model.vision, SIZES.select_layer)
        self.head = DenseHead(SIZES.vision["hidden_size"])
        self.code = VisualCode(SIZES.language["hidden_size"])

    @torch.no_grad()
    def start_norm(self, rng: np.random.Generator) -> None:
        """CLIP normalises what enters its layers: give that the size to which the layers are used."""
        pixels, _ = _pictures(rng, 4)
        embedded = self.vision.embeddings(pixels)
        self.vision.pre_layrnorm.weight.fill_(embedded.std(dim=-1).mean())

    def patches(self, pixels: Tensor) -> Tensor:
        """Pixels [F, 3, H, W] -> features of the patches, without the class token [F, T, C]."""
        x = self.tower.embed(pixels)
        for block in self.tower.blocks:
            x = block(x)
        return x[:, self.tower.facts.num_special_tokens :]

    def loss(self, rng: np.random.Generator, size: int) -> tuple[Tensor, dict[str, float]]:
        """Fresh pictures: what both projectors say against the visual code, plus dense labels of the patches."""
        pixels, renderers = _pictures(rng, size)
        x = self.patches(pixels)
        of_patches, of_cells = _labels(renderers, PATCHES), _labels(renderers, PATCHES // 2)
        kind, color = (torch.from_numpy(values).flatten() for values in (of_patches.kind, of_patches.color))
        dense, metrics = self.head.loss(x.flatten(0, 1), kind, color)
        target, weight = self.code(of_cells), 1.0 + 3.0 * torch.from_numpy(of_cells.kind != BACKGROUND)
        tokens = [project(mix(x)) for project in self.projectors]
        errors = [((t - target).square().mean(-1) * weight).sum() / weight.sum() for t in tokens]
        cells, covered = torch.from_numpy(of_cells.kind), torch.from_numpy(of_cells.coverage)
        metrics |= {"code_mse": errors[1].item(), "cell_shape_acc": self.code.shape_accuracy(tokens[1], cells, covered)}
        return 10.0 * sum(errors) + dense, metrics


def pixels_of(frames: Sequence[np.ndarray]) -> Tensor:
    """Frames, uint8 [H, W, 3] each, as the backbone sees them: [F, 3, 112, 112]."""
    return PREPROCESS(frames, torch.device("cpu"), torch.float32)


def optimizers(model: DispiderVision, muon_lr: float = 0.008, adamw_lr: float = 1.5e-3) -> list[torch.optim.Optimizer]:
    """Muon for the blocks."""
    return muon_and_adamw(model, model.vision.encoder, muon_lr, adamw_lr)


def _pictures(rng: np.random.Generator, size: int) -> tuple[Tensor, list[Renderer]]:
    renderers = [dense_scene(rng) for _ in range(size)]
    images = codec_like(np.stack([renderer.frame(0.0) for renderer in renderers]), rng)
    return pixels_of(list(images)), renderers


def _labels(renderers: list[Renderer], cells: int) -> CellLabels:
    labels = [cell_labels(renderer, np.zeros(1), cells) for renderer in renderers]
    joined = (np.concatenate([getattr(label, name) for label in labels]) for name in ("kind", "color", "coverage"))
    return CellLabels(*joined)

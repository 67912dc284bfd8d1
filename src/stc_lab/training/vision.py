"""Vision stage: tower and projector learn to say the visual code of every cell, helped by dense labels of patches."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaOnevisionForConditionalGeneration

from stc_lab.pocket.world.codec import codec_like
from stc_lab.pocket.world.labels import BACKGROUND, NUM_COLORS, NUM_KINDS, cell_labels
from stc_lab.pocket.world.render import Renderer
from stc_lab.pocket.world.script import Script, Track
from stc_lab.pocket.world.vocabulary import COLOR_NAMES, IMAGE_SIZE, SHAPES
from stc_lab.training.codes import VisualCode
from stc_lab.training.optimizers import muon_and_adamw

PATCHES = 27


def dense_scene(rng: np.random.Generator, num_objects: tuple[int, int] = (5, 12)) -> Renderer:
    """A still picture crowded with shapes, for dense supervision."""
    tracks: list[Track] = []
    for _ in range(int(rng.integers(*num_objects))):
        x, y = rng.uniform(8, IMAGE_SIZE - 8, size=2)
        if any(np.hypot(x - k.path[0][1], y - k.path[0][2]) < 15 for k in tracks):
            continue
        color = COLOR_NAMES[int(rng.integers(len(COLOR_NAMES)))]
        shape, size = SHAPES[int(rng.integers(len(SHAPES)))], int(rng.integers(10, 15))
        tracks.append(Track(shape, size, ((0.0, 2.0),), ((0.0, color),), ((0.0, x, y),)))
    seed = int(rng.integers(2**31))
    return Renderer(Script(seed, 1, tuple(tracks), noise_sigma=float(rng.uniform(2, 5))))


def picture_batch(rng: np.random.Generator, size: int) -> tuple[Tensor, list[Renderer]]:
    """Normalised pictures [size, 3, H, W] and the renderers that drew them."""
    renderers = [dense_scene(rng) for _ in range(size)]
    images = codec_like(np.stack([r.frame(0.0) for r in renderers]), rng)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    return pixels.div_(127.5).sub_(1.0), renderers


class DenseHead(nn.Module):
    """Linear probes for kind and colour of a patch; thrown away after training."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.kind, self.color = nn.Linear(hidden_size, NUM_KINDS), nn.Linear(hidden_size, NUM_COLORS)
        self.register_buffer("weight", torch.ones(NUM_KINDS))
        self.weight[BACKGROUND] = 0.3

    def loss(self, x: Tensor, kind: Tensor, color: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Cross entropy of both; ``x`` [N, C], labels [N]."""
        x = self.norm(x)
        kind_logits, color_logits = self.kind(x), self.color(x)
        loss = F.cross_entropy(kind_logits, kind, weight=self.weight) + 0.5 * F.cross_entropy(color_logits, color)
        of_object = kind < BACKGROUND
        correct = (kind_logits.argmax(-1) == kind)[of_object].float().mean().item()
        return loss, {"dense": loss.item(), "patch_shape_acc": correct}


class VisionModel(nn.Module):
    """What the vision stages train: tower and projector of a LLaVA-OneVision model, with a probe."""

    def __init__(self, model: LlavaOnevisionForConditionalGeneration) -> None:
        super().__init__()
        self.tower, self.projector = model.model.vision_tower, model.model.multi_modal_projector
        self.pool = model.model.apply_pooling
        self.head = DenseHead(model.config.vision_config.hidden_size)
        self.code = VisualCode(model.config.text_config.hidden_size)

    def loss(self, rng: np.random.Generator, size: int) -> tuple[Tensor, dict[str, float]]:
        """Fresh pictures: pooled tokens against the visual code, objects and clutter weighted up, plus dense labels."""
        pixels, renderers = picture_batch(rng, size)
        x = self.tower.embeddings(pixels)
        for layer in self.tower.encoder.layers:
            x = layer(x, None)
        kind, color = _patch_labels(renderers)
        dense, metrics = self.head.loss(x.flatten(0, 1), kind.flatten(), color.flatten())
        tokens = self.pool(self.projector(x))
        labels = [cell_labels(r, np.zeros(1)) for r in renderers]
        target = torch.cat([self.code(label) for label in labels])
        cells = torch.from_numpy(np.concatenate([label.kind for label in labels]))
        weight = 1.0 + 3.0 * (cells != BACKGROUND)
        code = ((tokens - target).square().mean(-1) * weight).sum() / weight.sum()
        covered = torch.from_numpy(np.concatenate([label.coverage for label in labels]))
        metrics |= {"code_mse": code.item(), "cell_shape_acc": self.code.shape_accuracy(tokens, cells, covered)}
        return 20.0 * code + dense, metrics


def _patch_labels(renderers: list[Renderer]) -> tuple[Tensor, Tensor]:
    labels = [cell_labels(r, np.zeros(1), PATCHES) for r in renderers]
    shape = (len(renderers), PATCHES, PATCHES)
    kind = torch.from_numpy(np.concatenate([label.kind for label in labels])).view(shape)
    return kind, torch.from_numpy(np.concatenate([label.color for label in labels])).view(shape)


def optimizers(model: VisionModel, muon_lr: float = 0.02, adamw_lr: float = 2e-3) -> list[torch.optim.Optimizer]:
    """Muon for the blocks."""
    return muon_and_adamw(model, model.tower.encoder, muon_lr, adamw_lr)

"""Vision stage of the Qwen-VL pockets: tower and merger say what pairs of frames show and what changed within them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stc_lab.backbones.qwen_vl.checkpoint import PairPreprocessor
from stc_lab.pocket.world.codec import codec_like
from stc_lab.pocket.world.labels import BACKGROUND, cell_labels
from stc_lab.pocket.world.render import Renderer
from stc_lab.pocket.world.script import Script, Track
from stc_lab.pocket.world.vocabulary import COLOR_NAMES, IMAGE_SIZE, SHAPES
from stc_lab.training.models.qwen_vl import PIXELS
from stc_lab.training.optimizers import muon_and_adamw
from stc_lab.training.qwen_codes import PairCode, PairLabels
from stc_lab.training.vision import DenseHead
from stc_lab.vision import QwenTower
from stc_lab.vision.qwen import GROUP, MERGE

SIDE = 112
PATCHES = SIDE // PIXELS["patch_size"]
CHANGE_S = 0.25
PAIR_S = 0.5
EDGE = 8
MOST_STEP_PX = 20
CHANGES, CHANGE_WEIGHTS = ("none", "come", "go", "turn", "move"), (0.5, 0.13, 0.13, 0.1, 0.14)
PLAIN_SHARE = 0.25
"""Share of pairs that are one frame twice, as a question shows the frame that waits for its partner."""


def pair_scene(rng: np.random.Generator) -> Renderer:
    """A crowded half second in which shapes come, go, turn and move."""
    tracks: list[Track] = []
    for _ in range(int(rng.integers(5, 12))):
        x, y = rng.uniform(EDGE, IMAGE_SIZE - EDGE, size=2)
        if all(np.hypot(x - k.path[-1][1], y - k.path[-1][2]) > 15 for k in tracks):
            tracks.append(_track(rng, float(x), float(y)))
    cut_s = CHANGE_S if rng.random() < 0.05 else None
    pan = float(rng.choice([-3.0, -1.5, 1.5, 3.0])) if rng.random() < 0.15 else 0.0
    seed = int(rng.integers(2**31))
    return Renderer(Script(seed, 1, tuple(tracks), cut_s, pan, noise_sigma=float(rng.uniform(2, 5))))


def _track(rng: np.random.Generator, x: float, y: float) -> Track:
    """A shape that is at (x, y) after the change, if it is there then."""
    change = str(rng.choice(CHANGES, p=CHANGE_WEIGHTS))
    old, new = (str(c) for c in rng.permutation(COLOR_NAMES)[:2])
    visible = {"come": (CHANGE_S, 2.0), "go": (0.0, CHANGE_S)}.get(change, (0.0, 2.0))
    colors = ((0.0, old), (CHANGE_S, new)) if change == "turn" else ((0.0, old),)
    step = rng.uniform(-MOST_STEP_PX, MOST_STEP_PX, size=2) if change == "move" else np.zeros(2)
    x1, y1 = np.clip(np.array([x, y]) + step, EDGE, IMAGE_SIZE - EDGE)
    path = ((0.0, float(x1), float(y1)), (PAIR_S, x, y))
    return Track(SHAPES[int(rng.integers(len(SHAPES)))], int(rng.integers(10, 15)), (visible,), colors, path)


def pair_batch(rng: np.random.Generator, size: int) -> tuple[np.ndarray, list[Renderer], np.ndarray]:
    """Pairs uint8 [size, 2, H, W, 3], who drew them, and the times [size, 2] of their frames."""
    renderers = [pair_scene(rng) for _ in range(size)]
    times_s = np.tile([0.0, PAIR_S], (size, 1))
    times_s[rng.random(size) < PLAIN_SHARE] = PAIR_S
    frames = np.stack([r.frame(float(t)) for r, row in zip(renderers, times_s, strict=True) for t in row])
    return codec_like(frames, rng).reshape(size, 2, *frames.shape[1:]), renderers, times_s


def pair_labels(renderers: list[Renderer], times_s: np.ndarray, cells: int = 14) -> list[PairLabels]:
    """Labels of one pair of each renderer."""
    return [
        PairLabels(cell_labels(r, row[:1], cells), cell_labels(r, row[1:], cells))
        for r, row in zip(renderers, times_s, strict=True)
    ]


class QwenVision(nn.Module):
    """Tower and merger of a pocket Qwen-VL model, with probes that are thrown away."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.visual = model.model.visual
        self.tower = QwenTower(self.visual, (PATCHES, PATCHES))
        self.head = DenseHead(self.visual.blocks[0].attn.qkv.in_features)
        self.code = PairCode(model.config.text_config.hidden_size)
        self.preprocess = PairPreprocessor.from_config(PIXELS, PIXELS["patch_size"], 2, "pocket")

    def forward(self, pairs: np.ndarray) -> tuple[Tensor, Tensor]:
        """Pairs uint8 [F, 2, H, W, 3] -> visual tokens [F, 196, D] and tower features [F, 196, 4, C], row by row."""
        x = self.tower.embed(self.preprocess(list(pairs), (SIDE, SIDE), torch.device("cpu"), torch.float32))
        for block in self.tower.blocks:
            x = block(x)
        features = self.tower.finish(x)
        return self.tower.merge(features), self.tower.on_grid(features).unflatten(-1, (GROUP, -1))

    def loss(self, rng: np.random.Generator, size: int) -> tuple[Tensor, dict[str, float]]:
        """Fresh pairs: tokens against the code, shapes and changes weighted up, plus dense labels of patches."""
        pairs, renderers, times_s = pair_batch(rng, size)
        tokens, features = self(pairs)
        dense, metrics = self._dense(features, pair_labels(renderers, times_s, PATCHES))
        labels = pair_labels(renderers, times_s)
        target = torch.cat([self.code.of_pairs(label) for label in labels])
        kind = torch.from_numpy(np.concatenate([label.now.kind for label in labels]))
        changed = torch.from_numpy(np.concatenate([label.has_changed for label in labels]))
        weight = 1.0 + 3.0 * (kind != BACKGROUND) + 3.0 * changed
        error = (tokens - target).square().mean(-1)
        code = (error * weight).sum() / weight.sum()
        metrics |= {"code_mse": code.item(), "change_mse": error[changed].mean().item()}
        covered = torch.from_numpy(np.concatenate([label.now.coverage for label in labels]))
        metrics["cell_shape_acc"] = self.code.shape_accuracy(tokens, kind, covered)
        return 20.0 * code + dense, metrics

    def _dense(self, features: Tensor, labels: list[PairLabels]) -> tuple[Tensor, dict[str, float]]:
        rows = PATCHES // MERGE
        names = ("kind", "color")
        maps = (torch.from_numpy(np.concatenate([getattr(label.now, name) for label in labels])) for name in names)
        kind, color = (m.view(-1, rows, MERGE, rows, MERGE).transpose(2, 3).flatten() for m in maps)
        return self.head.loss(features.flatten(0, 2), kind, color)


@torch.no_grad()
def look_at_second_frame(visual: nn.Module) -> None:
    """Begin with the second frame of a pair in view, so that what a trained tower knows of pictures holds."""
    kernel = visual.patch_embed.proj.weight
    kernel[:, :, 1] = kernel.sum(dim=2)
    kernel[:, :, 0] = 0.0


def optimizers(model: QwenVision, muon_lr: float = 0.015, adamw_lr: float = 2e-3) -> list[torch.optim.Optimizer]:
    """Muon for the blocks."""
    return muon_and_adamw(model, model.visual.blocks, muon_lr, adamw_lr)

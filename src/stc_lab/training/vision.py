"""Vision stages: tower and projector learn to say the visual code of every cell, helped by dense labels of patches.

One probe and one loss for three encoders, which differ in their towers, in their pixels, and in what they look at:
single pictures (LLaVA-OneVision, Dispider) or pairs of frames (Qwen-VL).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedModel

from stc_lab.backbones.dispider.checkpoint import SquarePreprocessor
from stc_lab.backbones.dispider.networks import DispiderModel, mix
from stc_lab.backbones.qwen_vl.checkpoint import PairPreprocessor
from stc_lab.pocket.world.labels import BACKGROUND, NUM_COLORS, NUM_KINDS, CellLabels, cell_labels
from stc_lab.pocket.world.render import Renderer, codec_like
from stc_lab.pocket.world.script import Script, Track
from stc_lab.pocket.world.vocabulary import COLOR_NAMES, IMAGE_SIZE, SHAPES
from stc_lab.training.codes import PairCode, PairLabels, VisualCode
from stc_lab.training.models import dispider, qwen_vl
from stc_lab.vision import ClipTower, QwenTower
from stc_lab.vision.qwen import GROUP, MERGE

CPU = torch.device("cpu")
CHANGE_S, PAIR_S = 0.25, 0.5
EDGE = 8
MOST_STEP_PX = 20
CHANGES, CHANGE_WEIGHTS = ("none", "come", "go", "turn", "move"), (0.5, 0.13, 0.13, 0.1, 0.14)
PLAIN_SHARE = 0.25
"""Share of pairs that are one frame twice, as a question shows the frame that waits for its partner."""


# What is looked at


@dataclass
class Pictures:
    """F pictures, uint8 [F, H, W, 3], or pairs, uint8 [F, 2, H, W, 3], who drew them, and the times [F, 2] of the first
    and the second frame, which are equal for single pictures."""

    frames: np.ndarray
    renderers: list[Renderer]
    times_s: np.ndarray

    def labels(self, cells: int = 14) -> PairLabels:
        """What the first and the second frames show, in cells x cells parts."""
        now = [cell_labels(r, row[1:], cells) for r, row in zip(self.renderers, self.times_s, strict=True)]
        before = [
            cell_labels(r, row[:1], cells) if row[0] != row[1] else same
            for r, row, same in zip(self.renderers, self.times_s, now, strict=True)
        ]
        return PairLabels(_joined(before), _joined(now))


def _joined(labels: Sequence[CellLabels]) -> CellLabels:
    names = ("kind", "color", "coverage")
    return CellLabels(*(np.concatenate([getattr(label, name) for label in labels]) for name in names))


def dense_scene(rng: np.random.Generator, num_objects: tuple[int, int] = (5, 12)) -> Renderer:
    """A still picture crowded with shapes, for dense supervision."""
    tracks: list[Track] = []
    for _ in range(int(rng.integers(*num_objects))):
        x, y = rng.uniform(EDGE, IMAGE_SIZE - EDGE, size=2)
        if any(np.hypot(x - k.path[0][1], y - k.path[0][2]) < 15 for k in tracks):
            continue
        color = COLOR_NAMES[int(rng.integers(len(COLOR_NAMES)))]
        shape, size = SHAPES[int(rng.integers(len(SHAPES)))], int(rng.integers(10, 15))
        tracks.append(Track(shape, size, ((0.0, 2.0),), ((0.0, color),), ((0.0, x, y),)))
    seed = int(rng.integers(2**31))
    return Renderer(Script(seed, 1, tuple(tracks), noise_sigma=float(rng.uniform(2, 5))))


def pair_scene(rng: np.random.Generator) -> Renderer:
    """A crowded half second in which shapes come, go, turn and move."""
    tracks: list[Track] = []
    for _ in range(int(rng.integers(5, 12))):
        x, y = rng.uniform(EDGE, IMAGE_SIZE - EDGE, size=2)
        if all(np.hypot(x - k.path[-1][1], y - k.path[-1][2]) > 15 for k in tracks):
            tracks.append(_changing_track(rng, float(x), float(y)))
    cut_s = CHANGE_S if rng.random() < 0.05 else None
    pan = float(rng.choice([-3.0, -1.5, 1.5, 3.0])) if rng.random() < 0.15 else 0.0
    seed = int(rng.integers(2**31))
    return Renderer(Script(seed, 1, tuple(tracks), cut_s, pan, noise_sigma=float(rng.uniform(2, 5))))


def _changing_track(rng: np.random.Generator, x: float, y: float) -> Track:
    """A shape that is at (x, y) after the change, if it is there then."""
    change = str(rng.choice(CHANGES, p=CHANGE_WEIGHTS))
    old, new = (str(c) for c in rng.permutation(COLOR_NAMES)[:2])
    visible = {"come": (CHANGE_S, 2.0), "go": (0.0, CHANGE_S)}.get(change, (0.0, 2.0))
    colors = ((0.0, old), (CHANGE_S, new)) if change == "turn" else ((0.0, old),)
    step = rng.uniform(-MOST_STEP_PX, MOST_STEP_PX, size=2) if change == "move" else np.zeros(2)
    x1, y1 = np.clip(np.array([x, y]) + step, EDGE, IMAGE_SIZE - EDGE)
    path = ((0.0, float(x1), float(y1)), (PAIR_S, x, y))
    return Track(SHAPES[int(rng.integers(len(SHAPES)))], int(rng.integers(10, 15)), (visible,), colors, path)


def single_pictures(rng: np.random.Generator, size: int) -> Pictures:
    """Crowded still pictures with the losses of a codec."""
    renderers = [dense_scene(rng) for _ in range(size)]
    return Pictures(codec_like(np.stack([r.frame(0.0) for r in renderers]), rng), renderers, np.zeros((size, 2)))


def paired_pictures(rng: np.random.Generator, size: int) -> Pictures:
    """Pairs of frames half a second apart, some of them the second frame twice."""
    renderers = [pair_scene(rng) for _ in range(size)]
    times_s = np.tile([0.0, PAIR_S], (size, 1))
    times_s[rng.random(size) < PLAIN_SHARE] = PAIR_S
    frames = np.stack([r.frame(float(t)) for r, row in zip(renderers, times_s, strict=True) for t in row])
    return Pictures(codec_like(frames, rng).reshape(size, 2, *frames.shape[1:]), renderers, times_s)


# What looks


class LlavaEncoder(nn.Module):
    """Tower, projector and pooling of a LLaVA-OneVision model: 27 x 27 patches, 196 tokens."""

    side = 27
    draw = staticmethod(single_pictures)

    def __init__(self, model: LlavaOnevisionForConditionalGeneration) -> None:
        super().__init__()
        self.tower, self.projector = model.model.vision_tower, model.model.multi_modal_projector
        self.pool = model.model.apply_pooling
        self.num_channels = model.config.vision_config.hidden_size
        self.code = VisualCode(model.config.text_config.hidden_size)

    @property
    def blocks(self) -> nn.Module:
        """Layers of the tower."""
        return self.tower.encoder

    def forward(self, frames: np.ndarray) -> tuple[Tensor, list[Tensor]]:
        """Frames uint8 [F, H, W, 3] -> features of patches [F, 729, C] and tokens [F, 196, D]."""
        x = self.tower.embeddings(siglip_pixels(frames))
        for layer in self.tower.encoder.layers:
            x = layer(x, None)
        return x, [self.pool(self.projector(x))]


class DispiderEncoder(nn.Module):
    """Tower and both projectors of a Dispider model: 28 x 28 patches, 196 tokens for the language model (first) and for
    the compressor."""

    side = dispider.SIZES.vision["image_size"] // dispider.SIZES.vision["patch_size"]
    num_channels = dispider.SIZES.vision["hidden_size"]
    draw = staticmethod(single_pictures)

    def __init__(self, model: DispiderModel) -> None:
        super().__init__()
        self.vision, self.projectors = model.vision, nn.ModuleList([model.mm_projector["mlp"], model.clip_projector])
        self.tower = ClipTower(model.vision, dispider.SIZES.select_layer)
        self.code = VisualCode(dispider.SIZES.language["hidden_size"])
        self.preprocess = SquarePreprocessor.from_config(dispider.PIXELS, dispider.SIZES.vision["image_size"])

    @property
    def blocks(self) -> nn.Module:
        """Layers of the tower."""
        return self.vision.encoder

    @torch.no_grad()
    def start_norm(self) -> None:
        """CLIP normalises what enters its layers: give that the size to which the layers are used."""
        embedded = self.vision.embeddings(self.pixels(single_pictures(np.random.default_rng(0), 4).frames))
        self.vision.pre_layrnorm.weight.fill_(embedded.std(dim=-1).mean())

    def pixels(self, frames: Sequence[np.ndarray]) -> Tensor:
        """Frames, uint8 [H, W, 3] each, as the backbone sees them: [F, 3, 112, 112]."""
        return self.preprocess(list(frames), CPU, torch.float32)

    def patches(self, frames: Sequence[np.ndarray]) -> Tensor:
        """Features of the patches, without the class token [F, 784, C]."""
        x = self.tower.embed(self.pixels(frames))
        for block in self.tower.blocks:
            x = block(x)
        return x[:, self.tower.facts.num_special_tokens :]

    def forward(self, frames: np.ndarray) -> tuple[Tensor, list[Tensor]]:
        """Frames uint8 [F, H, W, 3] -> features of patches [F, 784, C], and tokens [F, 196, D] of each projector."""
        x = self.patches(frames)
        return x, [project(mix(x)) for project in self.projectors]


class QwenEncoder(nn.Module):
    """Tower and merger of a Qwen-VL model, which looks at pairs of frames: 28 x 28 patches, 196 tokens."""

    pixel_side = 112
    side = pixel_side // qwen_vl.PIXELS["patch_size"]
    draw = staticmethod(paired_pictures)

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.visual = model.model.visual
        self.tower = QwenTower(self.visual, (self.side, self.side))
        self.num_channels = self.visual.blocks[0].attn.qkv.in_features
        self.code = PairCode(model.config.text_config.hidden_size)
        patch_size = qwen_vl.PIXELS["patch_size"]
        self.preprocess = PairPreprocessor.from_config(qwen_vl.PIXELS, patch_size, 2, "pocket")

    @property
    def blocks(self) -> nn.Module:
        """Layers of the tower."""
        return self.visual.blocks

    @torch.no_grad()
    def look_at_second_frame(self) -> None:
        """Begin with the second frame of a pair in view, so that what a trained tower knows of pictures holds."""
        kernel = self.visual.patch_embed.proj.weight
        kernel[:, :, 1] = kernel.sum(dim=2)
        kernel[:, :, 0] = 0.0

    def forward(self, pairs: np.ndarray) -> tuple[Tensor, list[Tensor]]:
        """Pairs uint8 [F, 2, H, W, 3] -> features of patches [F, 784, C], row by row, and tokens [F, 196, D]."""
        x = self.tower.embed(self.preprocess(list(pairs), (self.pixel_side, self.pixel_side), CPU, torch.float32))
        for block in self.tower.blocks:
            x = block(x)
        features, rows = self.tower.finish(x), self.side // MERGE
        # The tower keeps the patches of a token together: [F, row, column, row within, column within, C].
        grouped = self.tower.on_grid(features).unflatten(-1, (GROUP, -1))
        grouped = grouped.unflatten(2, (MERGE, MERGE)).unflatten(1, (rows, rows))
        return grouped.transpose(2, 3).flatten(1, 4), [self.tower.merge(features)]


def siglip_pixels(frames: np.ndarray) -> Tensor:
    """Frames uint8 [F, H, W, 3] -> normalised pixels [F, 3, H, W]."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


# What is learned


class DenseHead(nn.Module):
    """Linear probes for kind and colour of a patch; thrown away after training."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(num_channels)
        self.kind, self.color = nn.Linear(num_channels, NUM_KINDS), nn.Linear(num_channels, NUM_COLORS)
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


class CellProbe(nn.Module):
    """What a vision stage trains: an encoder, with a probe of its patches that is thrown away."""

    def __init__(self, encoder: LlavaEncoder | DispiderEncoder | QwenEncoder, num_pictures: int = 8) -> None:
        """``num_pictures``: fresh pictures in every step."""
        super().__init__()
        self.encoder, self.num_pictures = encoder, num_pictures
        self.head = DenseHead(encoder.num_channels)

    @property
    def layers(self) -> nn.Module:
        """Whose matrices Muon takes."""
        return self.encoder.blocks

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Tokens of fresh pictures against the visual code, objects and changes weighted up, plus labels of patches."""
        pictures = self.encoder.draw(rng, self.num_pictures)
        features, tokens = self.encoder(pictures.frames)
        # Every patch: what is there, and in which colour.
        of_patches = pictures.labels(self.encoder.side).now
        kind, color = (torch.from_numpy(values).flatten() for values in (of_patches.kind, of_patches.color))
        dense, metrics = self.head.loss(features.flatten(0, 1), kind, color)
        # Every token: the code of its cell.
        labels, code = pictures.labels(), self.encoder.code
        target, kind = code.of_pairs(labels), torch.from_numpy(labels.now.kind)
        changed = torch.from_numpy(labels.has_changed)
        weight = 1.0 + 3.0 * (kind != BACKGROUND) + 3.0 * changed
        errors = [(each - target).square().mean(-1) for each in tokens]
        means = [(error * weight).sum() / weight.sum() for error in errors]
        covered = torch.from_numpy(labels.now.coverage)
        metrics |= {"code_mse": means[-1].item(), "cell_shape_acc": code.shape_accuracy(tokens[-1], kind, covered)}
        if changed.any():
            metrics["change_mse"] = errors[-1][changed].mean().item()
        return 20.0 / len(tokens) * sum(means) + dense, metrics

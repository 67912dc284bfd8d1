"""What StreamForest has to learn beyond ReKV: places and times in the features, merged tokens, another prompt."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from stc_lab.backbones.streamforest.checkpoint import StreamForestModel
from stc_lab.backbones.streamforest.model import FramePositions
from stc_lab.memories.streamforest import prune_units
from stc_lab.pocket.world.labels import BACKGROUND, cell_labels
from stc_lab.training.batches import IGNORE
from stc_lab.training.language import letter_accuracy
from stc_lab.training.packed import packed_hidden
from stc_lab.training.streamforest_batches import ForestEncoder, ViewBatch
from stc_lab.training.streamforest_views import see_frames
from stc_lab.training.vision import PATCHES, picture_batch
from stc_lab.types import VisualTokens
from stc_lab.vision import SiglipTower

TIME_NORM = 2.0
LATEST_S = 30


class PlacedProjector(nn.Module):
    """The projector learns to say of placed and mixed features what ReKV's says of plain ones, and when they were."""

    def __init__(self, model: StreamForestModel) -> None:
        super().__init__()
        self.model, self.teacher = model, deepcopy(model.projector).requires_grad_(False)
        self.model.requires_grad_(False)
        self.model.projector.requires_grad_(True)
        self.tower = SiglipTower(model.vision)
        self.positions = FramePositions(self.tower.facts.hidden_size, self.tower.facts.grid[0])
        self.register_buffer("times", time_code(self.positions.temporal[:LATEST_S], self.teacher[2].out_features))

    def loss(self, rng: np.random.Generator, size: int) -> tuple[Tensor, dict[str, float]]:
        """On ``size`` fresh pictures; half of the tokens are mixed with a neighbour, as merging does."""
        pixels, renderers = picture_batch(rng, size)
        seconds = torch.from_numpy(rng.integers(LATEST_S, size=size))
        with torch.no_grad():
            features = see_frames(self.tower, pixels)
            placed = self.positions.add_place(features) + self.positions.temporal[seconds, None]
            target = self.teacher(features) + self.times[seconds, None]
        kind = torch.from_numpy(np.concatenate([cell_labels(r, np.zeros(1), PATCHES).kind for r in renderers]))
        share, partner = _mixing(rng, *kind.shape)
        mixed, aim = (share * x + (1 - share) * x[:, partner] for x in (placed, target))
        weight = 1.0 + 3.0 * ((kind != BACKGROUND) | (kind[:, partner] != BACKGROUND))
        error = (self.model.projector(mixed) - aim).square().mean(-1)
        loss = (error * weight).sum() / weight.sum()
        return loss, {"mse": loss.item()}


def time_code(temporal: Tensor, dim: int, num_waves: int = 5) -> Tensor:
    """[T, dim] of length TIME_NORM: the fastest waves of the temporal table [T, C], in fixed random directions.

    It is linear in the table, so that a mean of frames has the mean of their codes.
    """
    half = temporal.shape[1] // 8
    waves = torch.cat((temporal[:, :num_waves], temporal[:, half : half + num_waves]), dim=1)
    generator = torch.Generator().manual_seed(21)
    directions, _ = torch.linalg.qr(torch.randn(dim, waves.shape[1], generator=generator))
    return TIME_NORM * num_waves**-0.5 * waves @ directions.T


def _mixing(rng: np.random.Generator, num_frames: int, num_tokens: int) -> tuple[Tensor, Tensor]:
    """Own shares [F, T, 1], half of them 1, and for each token another one at most two patches away [T]."""
    share = np.where(rng.random((num_frames, num_tokens)) < 0.5, 1.0, rng.random((num_frames, num_tokens)))
    row, column = np.divmod(np.arange(num_tokens), PATCHES)
    row = np.clip(row + rng.integers(-2, 3, size=num_tokens), 0, PATCHES - 1)
    column = np.clip(column + rng.integers(-2, 3, size=num_tokens), 0, PATCHES - 1)
    return torch.from_numpy(share).float()[..., None], torch.from_numpy(row * PATCHES + column)


class ForestLearner(nn.Module):
    """Projector and language model learn to answer from what the memory hands over."""

    def __init__(self, model: StreamForestModel, encoder: ForestEncoder) -> None:
        super().__init__()
        self.model, self.encoder = model, encoder
        self.model.requires_grad_(True)
        self.model.vision.requires_grad_(False)

    def loss(self, batch: ViewBatch) -> tuple[Tensor, dict[str, float]]:
        """Letter (and end) at the answer place, a quarter of it for the answer word at the question mark."""
        logits, questions = self.logits(batch), batch.questions
        letter = F.cross_entropy(logits.flatten(0, 2), questions.letter.flatten(), ignore_index=IGNORE)
        word = F.cross_entropy(logits.flatten(0, 2), questions.word.flatten(), ignore_index=IGNORE)
        metrics = {"letter": letter.item(), "word": word.item(), "acc": letter_accuracy(logits, questions.letter)}
        return 2.0 * letter + 0.5 * word, metrics

    def logits(self, batch: ViewBatch) -> Tensor:
        """[V, Q, L, vocabulary] at the tokens of the questions."""
        prefixes, language = self.prefixes(batch), self.model.language
        lengths = torch.tensor([len(prefix) for prefix in prefixes])
        ids = batch.questions.ids
        visible = lengths[:, None].expand(ids.shape[:2])
        embeds = language.get_input_embeddings()(ids)
        return language.lm_head(packed_hidden(language.model, pad_sequence(prefixes, True), embeds, visible))

    def prefixes(self, batch: ViewBatch) -> list[Tensor]:
        """Embeddings [P, H] per view: the prompt up to the question."""
        embed = self.model.language.get_input_embeddings()
        views = self.model.projector(batch.tokens).split([sum(map(sum, sizes)) for sizes in batch.sizes])
        before = embed(self.encoder.init_ids)
        prefixes = []
        for view, sizes, message in zip(views, batch.sizes, batch.messages, strict=True):
            kept, _ = prune_units(batch.pruner, as_units(view, sizes))
            prefixes.append(torch.cat((before, *(unit.tokens for unit in kept), embed(message))))
        return prefixes


def as_units(projected: Tensor, sizes: tuple[tuple[int, ...], ...]) -> list[list[VisualTokens]]:
    """Projected tokens [N, H] of one view as the units that a pruner meets, by kind."""
    units = iter(projected.split([size for kind in sizes for size in kind]))
    return [[VisualTokens.full(next(units), (1, size), 0.0) for size in kind] for kind in sizes]

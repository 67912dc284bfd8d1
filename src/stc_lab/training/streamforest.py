"""StreamForest's stages: places and times in the features, and answers from what its memory hands over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from stc_lab.backbones.streamforest.checkpoint import StreamForestModel
from stc_lab.backbones.streamforest.model import ANSWER_START, BEFORE_VIDEO, FramePositions, question_body
from stc_lab.memories.streamforest import Forest, ForestSizes, ForestView, prune_units, time_message
from stc_lab.pocket.world.labels import BACKGROUND
from stc_lab.pocket.world.questions import PocketQuestion, sample_questions
from stc_lab.pocket.world.script import Script
from stc_lab.pruners.base import Pruner
from stc_lab.pruners.none import NoPruner
from stc_lab.pruners.random import RandomPruner
from stc_lab.pruners.stc import STCPruner
from stc_lab.training.batches import HARD, Batches, QuestionEncoder, QuestionTokens, mix_at
from stc_lab.training.features import Arrays, FeatureCache, coded_seconds
from stc_lab.training.language import AnswerLearner, padded
from stc_lab.training.vision import LlavaEncoder, siglip_pixels, single_pictures
from stc_lab.types import Question, VisualTokens
from stc_lab.vision import SiglipTower

VIEWS_PER_STREAM = {12: 6, 28: 9}
"""Readings per stream of a duration in seconds."""
FIRST_TIME_S = 3
"""Nothing is asked before this second."""


@dataclass(frozen=True)
class View:
    """One reading of the memory: ``tokens`` float16 [N, C] of the tower, before the projector.

    ``sizes``: tokens of each unit (a frame's share of an event, a frame of the window, the newest frame) by kind,
    oldest first; ``script`` and ``time_s`` (whole seconds, the time of the newest frame) say of what.
    """

    script: Script
    time_s: int
    tokens: np.ndarray
    sizes: tuple[tuple[int, ...], ...]


def view_features(model: StreamForestModel, settings: ForestSizes, script: Script, times_s: Iterable[int]) -> Arrays:
    """What the memory hands over at ``times_s`` (whole seconds) of a stream seen once a second through real h264.

    Tokens of all readings back to back; a row of ``table`` is (time, start, stop, units of events, window, now).
    """
    views = see_views(model, settings, script, times_s)
    rows, start = [], 0
    for time_s, view in views:
        stop = start + len(view.tokens)
        rows.append((time_s, start, stop, *map(len, unit_sizes(view))))
        start = stop
    sizes = [max((size for _, view in views for size in unit_sizes(view)[kind]), default=0) for kind in range(3)]
    tokens = torch.cat([view.tokens for _, view in views]).half().numpy()
    return {"tokens": tokens, "table": np.array(rows), "unit_sizes": np.array(sizes)}


def view_times(duration_s: int, index: int, number: int) -> list[int]:
    """The seconds at which stream ``index`` is read, ``number`` of them at most."""
    rng = np.random.default_rng([6, duration_s, index])
    return sorted(rng.permutation(np.arange(FIRST_TIME_S, duration_s))[:number].tolist())


def stored_view(cache: FeatureCache, index: int, number: int) -> View:
    """Reading ``number`` of stream ``index``."""
    features = cache.load(index)
    time_s, start, stop, *counts = features["table"][number].tolist()
    sizes = tuple((int(size),) * count for size, count in zip(features["unit_sizes"], counts, strict=True))
    return View(cache.script(index), time_s, features["tokens"][start:stop], sizes)


@torch.inference_mode()
def see_views(
    model: StreamForestModel, settings: ForestSizes, script: Script, times_s: Iterable[int]
) -> list[tuple[int, ForestView]]:
    """Time and reading of the memory at each of ``times_s``."""
    # Look at the whole stream, then push frame by frame, as a session does.
    tower = SiglipTower(model.vision)
    features = see_frames(tower, siglip_pixels(coded_seconds(script)))
    placed = FramePositions(tower.facts.hidden_size, tower.facts.grid[0])(features, 0)
    memory, wanted = Forest(settings, tower.facts.num_heads), set(times_s)
    views = []
    for time_s, frame in enumerate(placed):
        memory.push(frame)
        if time_s in wanted:
            views.append((time_s, memory.read()))
    return views


def see_frames(tower: SiglipTower, pixels: Tensor) -> Tensor:
    """Pixels [F, 3, H, W] -> features [F, T, C]."""
    x = tower.embed(pixels)
    for block in tower.blocks:
        x = block(x)
    return x


def unit_sizes(view: ForestView) -> tuple[tuple[int, ...], ...]:
    """Tokens of each unit of ``view``: of events, window, now."""
    return tuple(tuple(sizes) for sizes in view.unit_sizes)


TIME_MESSAGE = "short_online_v2"
TYPICAL_VIEW = 1600
TEXT_OF_A_VIEW = 330
"""Tokens of a view before pruning, and of its questions together; they only set the size of a batch."""


def forest_questions(tokenizer: PreTrainedTokenizerFast) -> QuestionEncoder:
    """Questions in StreamForest's prompt, of which all of one moment share the beginning."""
    return QuestionEncoder(tokenizer, BEFORE_VIDEO, _text_of, length=34)


def _text_of(q: PocketQuestion) -> str:
    asked = Question("", q.time_s, q.text, q.options, q.answer)
    return f"{question_body(asked)}{ANSWER_START}{q.answer}<|im_end|>"


def message_ids(encoder: QuestionEncoder, time_s: int) -> Tensor:
    """What stands between the visual tokens and a question asked after the frame of ``time_s``."""
    return encoder.token_ids("\n" + time_message(TIME_MESSAGE, time_s + 1, 0.0, float(time_s)))


@dataclass
class ViewBatch:
    """V views: ``tokens`` float32 [N, C] of all back to back, with the ``sizes`` of their units (see :class:`View`),
    the ids of their time ``messages``, their ``questions``, and the ``pruner`` that all of them meet."""

    tokens: Tensor
    sizes: list[tuple[tuple[int, ...], ...]]
    messages: list[Tensor]
    questions: QuestionTokens
    pruner: Pruner


@dataclass(frozen=True)
class ViewMix:
    """How batches are drawn: ``shares`` of every unit that are kept, with weights; ``durations`` of streams with
    weights; tokens in one batch; ``by_novelty``: how often STC chooses what is kept, otherwise chance does.

    ``emphasis`` per task: see :func:`stc_lab.pocket.world.questions.sample_questions`.
    """

    shares: tuple[float, ...]
    share_weights: tuple[float, ...]
    durations: tuple[int, ...] = (12, 28)
    duration_weights: tuple[float, ...] = (0.7, 0.3)
    tokens_per_batch: int = 4000
    num_questions: int = 12
    by_novelty: float = 0.6
    emphasis: Mapping[str, float] = field(default_factory=lambda: HARD)

    def draw(self, rng: np.random.Generator) -> tuple[int, int, Pruner]:
        """(duration, number of views, pruner) of one batch."""
        share = float(rng.choice(self.shares, p=self.share_weights))
        duration_s = int(rng.choice(self.durations, p=self.duration_weights))
        size = self.tokens_per_batch // int(share * TYPICAL_VIEW + TEXT_OF_A_VIEW)
        return duration_s, int(np.clip(size, 1, 10)), self._pruner(rng, share)

    def _pruner(self, rng: np.random.Generator, share: float) -> Pruner:
        if share == 1.0:
            return NoPruner()
        if rng.random() < self.by_novelty:
            return STCPruner(keep_ratio=share)
        return RandomPruner(keep_ratio=share, seed=int(rng.integers(1 << 30)))


class ViewBatches(Batches):
    """Readings of the memory with fresh questions."""

    def __init__(
        self, caches: Mapping[int, FeatureCache], encoder: QuestionEncoder, mixes: Mapping[int, ViewMix], seed: int
    ) -> None:
        """``mixes`` maps the step from which a mix holds to it; the first must be 0."""
        super().__init__(seed)
        self.caches, self.encoder, self.mixes = caches, encoder, mixes

    def draw(self, rng: np.random.Generator, step: int) -> ViewBatch:
        """Batch ``step``."""
        mix = mix_at(self.mixes, step)
        duration_s, size, pruner = mix.draw(rng)
        cache = self.caches[duration_s]
        # The same number in all streams: about the same time, so about the same length, and little padding.
        number = int(rng.integers(VIEWS_PER_STREAM[duration_s]))
        views, questions = [], []
        while len(views) < size:
            view = stored_view(cache, int(rng.integers(len(cache))), number)
            if asked := questions_at(view, mix.num_questions, step, mix.emphasis):  # nothing may have come yet
                views.append(view)
                questions.append(asked)
        return make_batch(views, questions, self.encoder, pruner)


def make_batch(
    views: list[View], questions: list[list[PocketQuestion]], encoder: QuestionEncoder, pruner: Pruner
) -> ViewBatch:
    """``questions`` about each of ``views``, one at least."""
    return ViewBatch(
        tokens=torch.from_numpy(np.concatenate([view.tokens for view in views])).float(),
        sizes=[view.sizes for view in views],
        messages=[message_ids(encoder, view.time_s) for view in views],
        questions=encoder(questions),
        pruner=pruner,
    )


def questions_at(
    view: View, num_questions: int, split_seed: int, emphasis: Mapping[str, float]
) -> list[PocketQuestion]:
    """Different questions, at most ``num_questions``, all asked right after the newest frame of ``view``."""
    so_far = replace(view.script, duration_s=view.time_s + 1)
    return sample_questions(so_far, num_questions, split_seed, first_s=view.time_s, emphasis=emphasis)


TIME_NORM = 2.0
LATEST_S = 30
SIDE = LlavaEncoder.side


class PlacedProjector(nn.Module):
    """The projector learns to say of placed and mixed features what ReKV's says of plain ones, and when they were."""

    def __init__(self, model: StreamForestModel, num_pictures: int = 5) -> None:
        super().__init__()
        self.num_pictures = num_pictures
        self.model, self.teacher = model, deepcopy(model.projector).requires_grad_(False)
        self.model.requires_grad_(False)
        self.model.projector.requires_grad_(True)
        self.tower = SiglipTower(model.vision)
        self.positions = FramePositions(self.tower.facts.hidden_size, self.tower.facts.grid[0])
        self.register_buffer("times", time_code(self.positions.temporal[:LATEST_S], self.teacher[2].out_features))

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """On fresh pictures; half of the tokens are mixed with a neighbour, as merging does."""
        pictures = single_pictures(rng, self.num_pictures)
        seconds = torch.from_numpy(rng.integers(LATEST_S, size=self.num_pictures))
        # The teacher sees plain features; the projector sees them with place and time added.
        with torch.no_grad():
            features = see_frames(self.tower, siglip_pixels(pictures.frames))
            placed = self.positions.add_place(features) + self.positions.temporal[seconds, None]
            target = self.teacher(features) + self.times[seconds, None]
        kind = torch.from_numpy(pictures.labels(SIDE).now.kind)
        # Mixing is linear, so the mixed answer is the aim for mixed features.
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
    row, column = np.divmod(np.arange(num_tokens), SIDE)
    row = np.clip(row + rng.integers(-2, 3, size=num_tokens), 0, SIDE - 1)
    column = np.clip(column + rng.integers(-2, 3, size=num_tokens), 0, SIDE - 1)
    return torch.from_numpy(share).float()[..., None], torch.from_numpy(row * SIDE + column)


class ForestLearner(AnswerLearner):
    """Projector and language model learn to answer from what the memory hands over."""

    def __init__(self, model: StreamForestModel, encoder: QuestionEncoder) -> None:
        super().__init__(model.language.model, model.language.lm_head, encoder)
        self.model = model.requires_grad_(True)
        model.vision.requires_grad_(False)

    def prefix(self, batch: ViewBatch) -> tuple[Tensor, Tensor]:
        """The prefixes of a batch as one tensor, and how much of it every question sees."""
        return padded(self.prefixes(batch), batch.questions)

    def prefixes(self, batch: ViewBatch) -> list[Tensor]:
        """Embeddings [P, H] per view: the prompt up to the question."""
        embed = self.decoder.embed_tokens
        # Project all views at once, then prune each as a session does on reading.
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

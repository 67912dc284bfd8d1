"""Training batches for StreamForest: readings of its memory with many questions of that moment each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stc_lab.backbones.streamforest.model import ANSWER_START, BEFORE_VIDEO, question_body
from stc_lab.memories.streamforest import time_message
from stc_lab.pocket.world.questions import PocketQuestion, sample_questions
from stc_lab.pruners.base import Pruner
from stc_lab.pruners.none import NoPruner
from stc_lab.pruners.random import RandomPruner
from stc_lab.pruners.stc import STCPruner
from stc_lab.training.batches import HARD, QuestionEncoder, QuestionTokens, mix_at
from stc_lab.training.streamforest_views import View, ViewShelf
from stc_lab.types import Question

TIME_MESSAGE = "short_online_v2"
TYPICAL_VIEW = 1600
TEXT_OF_A_VIEW = 330
"""Tokens of a view before pruning, and of its questions together; they only set the size of a batch."""


class ForestEncoder(QuestionEncoder):
    """Token rows in the prompt layout of StreamForest, of which all questions of one moment share the beginning."""

    def __init__(self, tokenizer, length: int = 34) -> None:
        super().__init__(tokenizer, length)
        self.init_ids = self._ids(BEFORE_VIDEO)

    def message_ids(self, time_s: int) -> Tensor:
        """What stands between the visual tokens and a question asked after the frame of ``time_s``."""
        return self._ids("\n" + time_message(TIME_MESSAGE, time_s + 1, 0.0, float(time_s)))

    def _ids(self, text: str) -> Tensor:
        return torch.tensor(self.tokenizer(text, add_special_tokens=False).input_ids)

    @staticmethod
    def _text(q: PocketQuestion) -> str:
        asked = Question("", q.time_s, q.text, q.options, q.answer)
        return f"{question_body(asked)}{ANSWER_START}{q.answer}<|im_end|>"


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


class ViewBatches(Dataset):
    """Batch ``step`` of views from the shelf with fresh questions; same step, same batch."""

    def __init__(self, shelf: ViewShelf, encoder: ForestEncoder, mixes: Mapping[int, ViewMix], seed: int) -> None:
        """``mixes`` maps the step from which a mix holds to it; the first must be 0."""
        self.shelf, self.encoder, self.mixes, self.seed = shelf, encoder, mixes, seed

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, step: int) -> ViewBatch:
        rng = np.random.default_rng([self.seed, step])
        mix = mix_at(self.mixes, step)
        duration_s, size, pruner = mix.draw(rng)
        # The same number in all streams: about the same time, so about the same length, and little padding.
        number = int(rng.integers(self.shelf.views_per_stream[duration_s]))
        views, questions = [], []
        while len(views) < size:
            view = self.shelf.view(duration_s, int(rng.integers(self.shelf.num_streams[duration_s])), number)
            if asked := questions_at(view, mix.num_questions, step, mix.emphasis):  # nothing may have come yet
                views.append(view)
                questions.append(asked)
        return make_batch(views, questions, self.encoder, pruner)


def make_batch(
    views: list[View], questions: list[list[PocketQuestion]], encoder: ForestEncoder, pruner: Pruner
) -> ViewBatch:
    """``questions`` about each of ``views``, one at least."""
    return ViewBatch(
        tokens=torch.from_numpy(np.concatenate([view.tokens for view in views])).float(),
        sizes=[view.sizes for view in views],
        messages=[encoder.message_ids(view.time_s) for view in views],
        questions=encoder(questions),
        pruner=pruner,
    )


def questions_at(
    view: View, num_questions: int, split_seed: int, emphasis: Mapping[str, float]
) -> list[PocketQuestion]:
    """Different questions, at most ``num_questions``, all asked right after the newest frame of ``view``."""
    so_far = replace(view.script, duration_s=view.time_s + 1)
    return sample_questions(so_far, num_questions, split_seed, first_s=view.time_s, emphasis=emphasis)

"""Training batches of the Qwen-VL pockets: whole streams in turns, with commentary and questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import Dataset

from stc_lab.backbones.qwen_vl.model import ANSWER_START, question_text
from stc_lab.pocket.world.commentary import lines
from stc_lab.pocket.world.questions import PocketQuestion, sample_questions
from stc_lab.pocket.world.script import Script, sample_script
from stc_lab.pocket.world.vocabulary import COLOR_NAMES, CORNERS, NUMBERS, SHAPES
from stc_lab.training.batches import HARD, mix_at
from stc_lab.training.qwen_codes import PairLabels
from stc_lab.training.qwen_collate import Item, TurnBatch, collate
from stc_lab.training.qwen_shelf import PairShelf, Times, label_pairs, pair_times, whole_pairs
from stc_lab.training.qwen_strips import Asked, Film, Reading
from stc_lab.training.qwen_turns import TurnLayout
from stc_lab.types import Question

TURN_TOKENS, QUESTION_TOKENS = 24, 50


@dataclass(frozen=True)
class TurnMix:
    """How batches are drawn: ``budgets``, ``durations`` and frame rates with weights, tokens in one batch.

    Streams of more than ``most_long`` tokens in their clips are drawn anew. ``silent_share`` of the streams are read
    with nothing said, so that answers do not rest on what was said alone; ``real_share`` come from a shelf.
    ``binding_share`` of the batches are text only: "say red ?".
    """

    budgets: tuple[int, ...]
    budget_weights: tuple[float, ...]
    durations: tuple[int, ...] = (12, 28)
    duration_weights: tuple[float, ...] = (0.75, 0.25)
    rates: tuple[float, ...] = (1.0, 2.0)
    rate_weights: tuple[float, ...] = (0.5, 0.5)
    tokens_per_batch: int = 2400
    num_questions: int = 10
    most_long: int = 2600
    silent_share: float = 0.2
    real_share: float = 0.0
    binding_share: float = 0.0

    def draw(self, rng: np.random.Generator) -> tuple[int, float, int]:
        """(duration, frame rate, budget) of one batch."""
        while True:
            duration = int(rng.choice(self.durations, p=self.duration_weights))
            rate = float(rng.choice(self.rates, p=self.rate_weights))
            budget = int(rng.choice(self.budgets, p=self.budget_weights))
            if duration * rate / 2 * budget <= self.most_long:
                return duration, rate, budget

    def sizes(self, num_pairs: int, budget: int) -> tuple[int, int]:
        """Streams, and questions to each: fewer where a question comes with a large clip of its own."""
        questions = self.num_questions if budget <= 64 else max(3, self.num_questions * 64 // budget)
        one = num_pairs * (budget + TURN_TOKENS) + questions * (budget // 2 + QUESTION_TOKENS)
        return int(np.clip(self.tokens_per_batch // one, 1, 12)), questions


def choose_pair_cells(rng: np.random.Generator, labels: PairLabels, budget: int) -> np.ndarray:
    """Cells to keep, ascending int [P, budget]: what is not background or has changed first, or shapes, or at random.

    A random handful tells too little to learn from, so below 16 cells it is not drawn.
    """
    score = rng.random(labels.now.kind.shape)
    style = rng.random() * (0.6 if budget < 16 else 1.0)
    if style < 0.35:
        score += (labels.fields()["coverage"] > 0) | labels.has_changed
    elif style < 0.6:
        score += labels.now.is_object | labels.has_changed
    return np.sort(np.argpartition(-score, budget - 1, axis=1)[:, :budget], axis=1)


def as_asked(question: PocketQuestion, start: str = ANSWER_START) -> Asked:
    """A question of the world as a Qwen-VL session asks it."""
    text = question_text(Question("", question.time_s, question.text, question.options))
    return Asked(question.time_s, text, start, question.answer, question.right)


def say_question(rng: np.random.Generator) -> PocketQuestion:
    """ "say red ?" with four options, before the first frame."""
    names = (SHAPES, COLOR_NAMES, CORNERS, NUMBERS)[int(rng.integers(4))]
    options = tuple(str(name) for name in rng.permutation(names)[:4])
    right = int(rng.integers(4))
    return PocketQuestion(-1.0, f"say {options[right]} ?", options, "ABCD"[right], "say", "say")


class TurnBatches(Dataset):
    """Batch ``step`` of endless streams, fresh ones from labels or those of ``shelves``; same step, same batch."""

    def __init__(
        self,
        layout: TurnLayout,
        mixes: Mapping[int, TurnMix],
        seed: int,
        shelves: Mapping[int, PairShelf] | None = None,
    ) -> None:
        """``mixes``: the mix from that step on; the first must be 0."""
        self.layout, self.mixes, self.seed, self.shelves = layout, mixes, seed, shelves or {}

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, step: int) -> TurnBatch:
        rng = np.random.default_rng([self.seed, step])
        mix = mix_at(self.mixes, step)
        if mix.binding_share and rng.random() < mix.binding_share:
            return collate(self.layout.words, [self._blind(rng) for _ in range(2)])
        duration, rate, budget = mix.draw(rng)
        times = whole_pairs(duration, rate)
        size, num_questions = mix.sizes(len(times), budget)
        shelf = self.shelves.get(duration) if rng.random() < mix.real_share else None
        items = []
        for _ in range(size):
            index = int(rng.integers(len(shelf.tokens))) if shelf else int(rng.integers(1 << 40, 1 << 41))
            script = shelf.script(index) if shelf else sample_script(index, duration)
            film, labels, times = draw_film(rng, script, rate, budget)
            reading, is_silent = self._read(rng, mix, script, film, times, num_questions, step)
            places = [pair_times(duration).index(pair) for pair in times]
            items.append(Item(reading, is_silent, labels, places, None if shelf is None else shelf.tokens[index]))
        return collate(self.layout.words, items)

    def _blind(self, rng: np.random.Generator) -> Item:
        """Questions that say their answer, before anything is seen: letters are bound to options here."""
        film = Film(1.0, 0, torch.zeros(0, 1, dtype=torch.long), {})
        reading = self.layout.read(film, [], [as_asked(say_question(rng)) for _ in range(10)])
        return Item(reading, True, label_pairs(sample_script(0, 8), [(0.0, 0.0)]), [0])

    def _read(
        self,
        rng: np.random.Generator,
        mix: TurnMix,
        script: Script,
        film: Film,
        times: list[Times],
        num_questions: int,
        step: int,
    ) -> tuple[Reading, bool]:
        """The stream in turns with its questions, and whether nothing was said."""
        moment = self.layout.moment(film, rng)
        first_s, asked_script = 3, script
        if moment is not None:
            first_s, asked_script = moment, replace(script, duration_s=moment + 1)
        questions = sample_questions(asked_script, num_questions, step + 1, first_s, emphasis=HARD)
        questions = questions or sample_questions(script, num_questions, step + 1)
        asked = [as_asked(q, ANSWER_START if rng.random() > 0.1 else "") for q in questions]
        is_silent = rng.random() < mix.silent_share
        said = lines(script, [[times[n][1] for n in turn] for turn in self.layout.turns(film.num_pairs)])
        return self.layout.read(film, [""] * len(said) if is_silent else said, asked), is_silent


def draw_film(
    rng: np.random.Generator, script: Script, rate: float, budget: int
) -> tuple[Film, PairLabels, list[Times]]:
    """A stream at ``rate`` with ``budget`` cells of each patch, labels of its patches, and the frames in them."""
    times, halves = film_times(script.duration_s, rate)
    labels = label_pairs(script, times)
    cells = torch.from_numpy(choose_pair_cells(rng, labels, budget))
    return Film(rate, len(times) - len(halves), cells, halves), labels, times


def film_times(duration_s: int, rate: float) -> tuple[list[Times], dict[int, int]]:
    """Frames of the whole pairs of a stream and of single frames shown twice, and which patch shows which frame."""
    pairs = whole_pairs(duration_s, rate)
    singles = range(0, int(duration_s * rate), 2)
    halves = {frame: len(pairs) + index for index, frame in enumerate(singles)}
    return pairs + [(frame / rate, frame / rate) for frame in singles], halves

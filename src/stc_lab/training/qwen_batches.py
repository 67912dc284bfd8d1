"""Batches of the Qwen-VL pockets: whole streams in turns, with commentary and questions, padded and labelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from stc_lab.backbones.qwen_vl.model import ANSWER_START, question_text
from stc_lab.pocket.world.commentary import lines
from stc_lab.pocket.world.questions import PocketQuestion, sample_questions
from stc_lab.pocket.world.script import Script, sample_script
from stc_lab.training.batches import HARD, IGNORE, Batches, mix_at, say_question
from stc_lab.training.codes import PairLabels
from stc_lab.training.features import FeatureCache, Times, label_pairs, pair_times, whole_pairs
from stc_lab.training.qwen_turns import (
    TEXT,
    AskedQuestion,
    PatchStream,
    TokenSequence,
    TurnLayout,
    TurnSequence,
    Vocabulary,
)
from stc_lab.types import Question

LETTER, WORD, SPEECH = range(3)
"""Kinds of labels."""


@dataclass
class TurnBatch:
    """S sequences of T tokens: those of the stream, then the O tokens of its questions.

    ``ids`` [S, T]; ``positions`` [3, S, T]; ``visible`` and ``question`` [S, O]: see :func:`packed_hidden`; ``labels``
    [3, S, T]: token to be said next, by kind. ``is_visual`` [S, T] marks N tokens, whose ``cells`` [N], ``fields``
    (label names to [N]) and, where they are real, ``tokens`` [N, D] are given.
    """

    ids: Tensor
    positions: Tensor
    visible: Tensor
    question: Tensor
    labels: Tensor
    is_visual: Tensor
    cells: Tensor
    fields: dict[str, Tensor]
    tokens: Tensor | None


@dataclass
class Item:
    """A sequence of a batch: ``is_silent`` where nothing was said; ``labels`` of its patches; ``places`` of the patches
    in ``seen``, features of a real stream (``None``: from labels alone)."""

    reading: TurnSequence
    is_silent: bool
    labels: PairLabels
    places: list[int]
    seen: np.ndarray | None = None


def collate(words: Vocabulary, items: Sequence[Item]) -> TurnBatch:
    """Pad and stack."""
    readings = [item.reading for item in items]
    num_prefix = max(len(r.prefix) for r in readings)
    num_own = max(sum(map(len, r.questions)) for r in readings)
    shape = (len(items), num_prefix + num_own)
    ids, labels = torch.full(shape, words.pad_id), torch.full((3, *shape), IGNORE)
    positions, (patches, cells) = torch.zeros(3, *shape, dtype=torch.double), torch.full((2, *shape), TEXT)
    visible, question = torch.ones(shape[0], num_own, dtype=torch.long), torch.full((shape[0], num_own), -1)
    for row, item in enumerate(items):
        reading = item.reading
        starts = num_prefix + np.cumsum([0, *map(len, reading.questions)])
        for start, sequence in [(0, reading.prefix), *zip(starts[:-1], reading.questions, strict=True)]:
            area = slice(start, start + len(sequence))
            ids[row, area], patches[row, area] = torch.tensor(sequence.ids), torch.tensor(sequence.patches)
            cells[row, area], positions[:, row, area] = torch.tensor(sequence.cells), sequence.positions
        # What the model says in the stream, then the answer of each question.
        _label_speech(labels[SPEECH, row], reading.prefix, item.is_silent)
        for number, sequence in enumerate(reading.questions):
            start = starts[number]
            area = slice(start - num_prefix, start - num_prefix + len(sequence))
            visible[row, area], question[row, area] = reading.visible[number], number
            _label_answer(labels[:, row, start : start + len(sequence)], sequence, words, reading.asked[number])
    batch = TurnBatch(ids, positions, visible, question, labels, patches != TEXT, cells, {}, None)
    return _with_pictures(items, batch, patches)


def _label_speech(labels: Tensor, prefix: TokenSequence, is_silent: bool) -> None:
    if is_silent:
        return
    for index in range(1, len(prefix)):
        if prefix.says[index]:
            labels[index - 1] = prefix.ids[index]


def _label_answer(labels: Tensor, sequence: TokenSequence, words: Vocabulary, asked: AskedQuestion) -> None:
    labels[LETTER, len(sequence) - 3 : len(sequence) - 1] = torch.tensor(sequence.ids[-2:])
    labels[WORD, sequence.ids.index(words.token_ids("?")[0])] = words.token_ids(asked.word)[0]


def _with_pictures(items: Sequence[Item], batch: TurnBatch, patches: Tensor) -> TurnBatch:
    """What the visual tokens show, row after row."""
    # From here on cells, fields and tokens are those of visual tokens alone.
    batch.cells = batch.cells[batch.is_visual]
    parts, tokens, start = [], [], 0
    for row, item in enumerate(items):
        number = patches[row][batch.is_visual[row]].numpy()
        cell = batch.cells[start : start + len(number)].numpy()
        start += len(number)
        parts.append({name: values[number, cell] for name, values in item.labels.fields().items()})
        if item.seen is not None:
            where, back = np.unique(np.array(item.places)[number], return_inverse=True)
            tokens.append(item.seen[where][back, cell])
    batch.fields = {name: torch.from_numpy(np.concatenate([p[name] for p in parts])) for name in parts[0]}
    batch.tokens = torch.from_numpy(np.concatenate(tokens)) if tokens else None
    return batch


TURN_TOKENS, QUESTION_TOKENS = 24, 50


@dataclass(frozen=True)
class TurnMix:
    """How batches are drawn: ``budgets``, ``durations`` and frame rates with weights, tokens in one batch.

    Streams of more than ``most_long`` tokens in their clips are drawn again. ``silent_share`` of the streams are read
    with nothing said, so that answers do not rest on what was said alone; ``real_share`` are features of real ones.
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


def as_asked(question: PocketQuestion, start: str = ANSWER_START) -> AskedQuestion:
    """A question of the world as a Qwen-VL session asks it."""
    text = question_text(Question("", question.time_s, question.text, question.options))
    return AskedQuestion(question.time_s, text, start, question.answer, question.right)


class TurnBatches(Batches):
    """Batch ``step`` of endless streams, fresh ones from labels or those of ``caches``; same step, same batch."""

    def __init__(
        self,
        layout: TurnLayout,
        mixes: Mapping[int, TurnMix],
        seed: int,
        caches: Mapping[int, FeatureCache] | None = None,
    ) -> None:
        """``mixes``: the mix from that step on; the first must be 0."""
        super().__init__(seed)
        self.layout, self.mixes, self.caches = layout, mixes, caches or {}

    def draw(self, rng: np.random.Generator, step: int) -> TurnBatch:
        """Batch ``step``."""
        mix = mix_at(self.mixes, step)
        if mix.binding_share and rng.random() < mix.binding_share:
            return collate(self.layout.words, [self._blind(rng) for _ in range(2)])
        duration, rate, budget = mix.draw(rng)
        times = whole_pairs(duration, rate)
        size, num_questions = mix.sizes(len(times), budget)
        # Features of real streams, or fresh streams from labels alone.
        cache = self.caches.get(duration) if rng.random() < mix.real_share else None
        items = []
        for _ in range(size):
            index = int(rng.integers(len(cache))) if cache else int(rng.integers(1 << 40, 1 << 41))
            script = cache.script(index) if cache else sample_script(index, duration)
            stream, labels, times = draw_patches(rng, script, rate, budget)
            reading, is_silent = self._read(rng, mix, script, stream, times, num_questions, step)
            places = [pair_times(duration).index(pair) for pair in times]
            items.append(Item(reading, is_silent, labels, places, cache.load(index)["tokens"] if cache else None))
        return collate(self.layout.words, items)

    def _blind(self, rng: np.random.Generator) -> Item:
        """Questions that say their answer, before anything is seen: letters are bound to options here."""
        stream = PatchStream(1.0, 0, torch.zeros(0, 1, dtype=torch.long), {})
        reading = self.layout.read(stream, [], [as_asked(say_question(rng, -1.0)) for _ in range(10)])
        return Item(reading, True, label_pairs(sample_script(0, 8), [(0.0, 0.0)]), [0])

    def _read(
        self,
        rng: np.random.Generator,
        mix: TurnMix,
        script: Script,
        stream: PatchStream,
        times: list[Times],
        num_questions: int,
        step: int,
    ) -> tuple[TurnSequence, bool]:
        """The stream in turns with its questions, and whether nothing was said."""
        moment = self.layout.moment(stream, rng)
        first_s, asked_script = 3, script
        if moment is not None:
            first_s, asked_script = moment, replace(script, duration_s=moment + 1)
        # Where the layout holds for one moment only, all questions are asked then.
        questions = sample_questions(asked_script, num_questions, step + 1, first_s, emphasis=HARD)
        questions = questions or sample_questions(script, num_questions, step + 1)
        asked = [as_asked(q, ANSWER_START if rng.random() > 0.1 else "") for q in questions]
        is_silent = rng.random() < mix.silent_share
        said = lines(script, [[times[n][1] for n in turn] for turn in self.layout.turns(stream.num_pairs)])
        return self.layout.read(stream, [""] * len(said) if is_silent else said, asked), is_silent


def draw_patches(
    rng: np.random.Generator, script: Script, rate: float, budget: int
) -> tuple[PatchStream, PairLabels, list[Times]]:
    """A stream at ``rate`` with ``budget`` cells of each patch, labels of its patches, and the frames in them."""
    times, halves = patch_times(script.duration_s, rate)
    labels = label_pairs(script, times)
    cells = torch.from_numpy(choose_pair_cells(rng, labels, budget))
    return PatchStream(rate, len(times) - len(halves), cells, halves), labels, times


def patch_times(duration_s: int, rate: float) -> tuple[list[Times], dict[int, int]]:
    """Frames of the whole pairs of a stream and of single frames shown twice, and which patch shows which frame."""
    pairs = whole_pairs(duration_s, rate)
    singles = range(0, int(duration_s * rate), 2)
    halves = {frame: len(pairs) + index for index, frame in enumerate(singles)}
    return pairs + [(frame / rate, frame / rate) for frame in singles], halves

"""Training batches for the language stages: streams as cell labels or real tokens, with many questions each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from stc_lab.pocket.world.labels import BACKGROUND, CellLabels, cell_labels
from stc_lab.pocket.world.questions import PocketQuestion, sample_questions
from stc_lab.pocket.world.render import Renderer
from stc_lab.pocket.world.script import Script, sample_script
from stc_lab.pocket.world.vocabulary import COLOR_NAMES, CORNERS, NUMBERS, SHAPES

IGNORE = -100
CELLS = 196
HARD = {"where_first": 3.0, "color_before": 2.0, "which_gone": 2.0, "times_so_far": 2.0, "here_now": 2.0}
"""Tasks that streams rarely allow or that are learnt late."""
INIT_PROMPT = "<|im_start|>system \nYou are a helpful assistant.<|im_end|><|im_start|>user "

M = TypeVar("M")
"""A mix of any kind."""


@dataclass
class QuestionTokens:
    """Questions of S streams: ``ids``, ``letter`` (labels of letter and end), ``word`` (label of the answer word at
    the question mark) int [S, Q, L]; ``frames_seen`` int [S, Q]."""

    ids: Tensor
    letter: Tensor
    word: Tensor
    frames_seen: Tensor


class QuestionEncoder:
    """Turns questions into padded token rows in the prompt layout of ReKV."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, length: int = 28) -> None:
        self.tokenizer, self.length = tokenizer, length
        self.init_ids = torch.tensor(tokenizer(INIT_PROMPT).input_ids)
        self._mark = tokenizer.convert_tokens_to_ids("?")

    def __call__(self, questions: list[list[PocketQuestion]]) -> QuestionTokens:
        """All rows of all streams; streams with fewer questions are filled by repeating them without labels."""
        most = max(len(row) for row in questions)
        padded = [row + [row[0]] * (most - len(row)) for row in questions]
        ids = self.tokenizer([self._text(q) for row in padded for q in row]).input_ids
        words = self.tokenizer([q.right for row in padded for q in row]).input_ids
        rows = torch.full((3, len(ids), self.length), IGNORE)
        rows[0] = self.tokenizer.pad_token_id
        for i, (row, word) in enumerate(zip(ids, words, strict=True)):
            assert len(row) <= self.length, f"question of {len(row)} tokens"
            rows[0, i, : len(row)] = torch.tensor(row)
            rows[1, i, len(row) - 3 : len(row) - 1] = torch.tensor(row[-2:])
            rows[2, i, row.index(self._mark)] = word[0]
        longest = max(map(len, ids))
        shaped = rows[..., :longest].reshape(3, len(padded), most, longest)
        for i, row in enumerate(questions):
            shaped[1:, i, len(row) :] = IGNORE
        seen = torch.tensor([[int(q.time_s) + 1 for q in row] for row in padded])
        return QuestionTokens(shaped[0], shaped[1], shaped[2], seen)

    @staticmethod
    def _text(q: PocketQuestion) -> str:
        options = "\n".join(f"({letter}) {option}" for letter, option in zip("ABCD", q.options, strict=False))
        body = f"\nQuestion: {q.text}\nOptions:\n{options}\nOnly give the best option."
        return f"{body}<|im_end|><|im_start|>assistant\nBest option: ({q.answer}<|im_end|>"


@dataclass
class StreamBatch:
    """S streams of T frames of B chosen cells: ``cells`` int [S, T, B]; ``labels`` or ``streams``: what they hold."""

    cells: Tensor
    kind: Tensor
    color: Tensor
    coverage: Tensor
    streams: Tensor
    questions: QuestionTokens


@dataclass(frozen=True)
class Mix:
    """How batches are drawn: ``budgets`` with weights, ``durations`` with weights, tokens in one batch.

    Frames of more than ``long_at_most`` tokens come with the first of the durations only. ``emphasis`` per task: see
    :func:`stc_lab.pocket.world.questions.sample_questions`.
    """

    budgets: tuple[int, ...]
    budget_weights: tuple[float, ...]
    durations: tuple[int, ...] = (12, 28)
    duration_weights: tuple[float, ...] = (0.85, 0.15)
    tokens_per_batch: int = 3600
    num_questions: int = 12
    long_at_most: int = 64
    emphasis: Mapping[str, float] = field(default_factory=lambda: HARD)

    def draw(self, rng: np.random.Generator) -> tuple[int, int, int]:
        """(duration, budget, number of streams) of one batch."""
        budget = int(rng.choice(self.budgets, p=self.budget_weights))
        is_any = budget <= self.long_at_most
        duration = int(rng.choice(self.durations, p=self.duration_weights)) if is_any else self.durations[0]
        size = self.tokens_per_batch // (duration * budget + 300)
        fewest = 2 if duration * budget < self.tokens_per_batch * 3 // 4 else 1
        return duration, budget, int(np.clip(size, fewest, 16))


def mix_at(mixes: Mapping[int, M], step: int) -> M:
    """The mix that holds at ``step``: ``mixes`` maps the step from which one holds to it; the first must be 0."""
    return mixes[max(start for start in mixes if start <= step)]


def choose_cells(rng: np.random.Generator, labels: CellLabels, budget: int) -> np.ndarray:
    """Cells to keep, ascending int [T, budget]: what is not background first, or shapes first, or at random.

    A random handful tells too little to learn from, so below 16 cells it is not drawn.
    """
    score = rng.random((labels.kind.shape[0], CELLS))
    style = rng.random() * (0.6 if budget < 16 else 1.0)
    if style < 0.35:
        score += labels.kind != BACKGROUND
    elif style < 0.6:
        score += labels.is_object
    return np.sort(np.argpartition(-score, budget - 1, axis=1)[:, :budget], axis=1)


def label_stream(script: Script) -> CellLabels:
    """Cell labels of a stream seen once a second."""
    return cell_labels(Renderer(script, textured=False), np.arange(float(script.duration_s)))


class SymbolBatches(Dataset):
    """Batch ``step`` of endless fresh streams that are never drawn, only labelled; same step, same batch."""

    def __init__(self, encoder: QuestionEncoder, mixes: dict[int, Mix], seed: int) -> None:
        """``mixes``: see :func:`mix_at`."""
        self.encoder, self.mixes, self.seed = encoder, mixes, seed

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, step: int) -> StreamBatch:
        rng = np.random.default_rng([self.seed, step])
        mix = mix_at(self.mixes, step)
        duration, budget, size = mix.draw(rng)
        scripts = [sample_script(int(s), duration) for s in rng.integers(1 << 40, 1 << 41, size=size)]
        labels = [label_stream(script) for script in scripts]
        questions = [sample_questions(script, mix.num_questions, step, emphasis=mix.emphasis) for script in scripts]
        return gather_batch(rng, labels, questions, self.encoder, budget, torch.arange(size))


class StillBatches(Dataset):
    """The last picture of a stream with questions about now: matching is learned here in a few hundred steps."""

    def __init__(self, encoder: QuestionEncoder, seed: int, size: int = 16, budget: int = 14) -> None:
        self.encoder, self.seed, self.size, self.budget = encoder, seed, size, budget

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, step: int) -> StreamBatch:
        rng = np.random.default_rng([self.seed, step])
        labels, questions = [], []
        while len(labels) < self.size:
            script = sample_script(int(rng.integers(1 << 40, 1 << 41)), 8)
            asked = sample_questions(script, 8, step, first_s=7, families=("realtime",))
            if asked:
                questions.append(asked)
                labels.append(cell_labels(Renderer(script, textured=False), np.array([7.0])))
        batch = gather_batch(rng, labels, questions, self.encoder, self.budget, torch.arange(self.size))
        batch.questions.frames_seen[:] = 1
        return batch


def gather_batch(
    rng: np.random.Generator,
    labels: list[CellLabels],
    questions: list[list[PocketQuestion]],
    encoder: QuestionEncoder,
    budget: int,
    streams: Tensor,
) -> StreamBatch:
    """Choose cells in every frame and put all into tensors."""
    cells = np.stack([choose_cells(rng, label, budget) for label in labels])

    def take(name: str) -> Tensor:
        return torch.from_numpy(np.take_along_axis(np.stack([getattr(x, name) for x in labels]), cells, axis=2))

    return StreamBatch(
        torch.from_numpy(cells), take("kind"), take("color"), take("coverage"), streams, encoder(questions)
    )


class BindingBatches(Dataset):
    """Text only: "say red ?" with four options, so that letters are bound to options before anything is seen."""

    def __init__(self, encoder: QuestionEncoder, seed: int, size: int = 8) -> None:
        self.encoder, self.seed, self.size = encoder, seed, size

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, step: int) -> StreamBatch:
        rng = np.random.default_rng([self.seed, step])
        rows = [[self._question(rng) for _ in range(12)] for _ in range(self.size)]
        nothing = torch.zeros(self.size, 0, 0, dtype=torch.long)
        return StreamBatch(nothing, nothing, nothing, nothing.float(), torch.arange(self.size), self.encoder(rows))

    @staticmethod
    def _question(rng: np.random.Generator) -> PocketQuestion:
        names = (SHAPES, COLOR_NAMES, CORNERS, NUMBERS)[int(rng.integers(4))]
        options = tuple(str(n) for n in rng.permutation(names)[:4])
        right = int(rng.integers(4))
        return PocketQuestion(0.0, f"say {options[right]} ?", options, "ABCD"[right], "say", "say")

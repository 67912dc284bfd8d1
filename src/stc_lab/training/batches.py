"""Training batches for the language stages: streams as cell labels or real tokens, with many questions each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerFast

from stc_lab.pocket.world.labels import BACKGROUND, CellLabels, cell_labels
from stc_lab.pocket.world.questions import PocketQuestion, sample_questions
from stc_lab.pocket.world.render import Renderer
from stc_lab.pocket.world.script import sample_script
from stc_lab.pocket.world.vocabulary import COLOR_NAMES, CORNERS, NUMBERS, SHAPES
from stc_lab.training.features import FeatureCache, label_stream

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
    """Turns questions into padded token rows in the prompt layout of a backbone, by default ReKV's.

    ``before`` stands in front of everything; ``text_of`` a question is all from the question on to the end of its
    answer, which is the last but one token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        before: str = INIT_PROMPT,
        text_of: Callable[[PocketQuestion], str] | None = None,
        length: int = 28,
    ) -> None:
        self.tokenizer, self.length, self._text = tokenizer, length, text_of or rekv_question
        self.init_ids = self.token_ids(before)
        self._mark = tokenizer.convert_tokens_to_ids("?")

    def __call__(self, questions: list[list[PocketQuestion]]) -> QuestionTokens:
        """All rows of all streams; streams with fewer questions are filled by repeating them without labels."""
        most = max(len(row) for row in questions)
        padded = [row + [row[0]] * (most - len(row)) for row in questions]
        ids = self.tokenizer([self._text(q) for row in padded for q in row]).input_ids
        words = self.tokenizer([q.right for row in padded for q in row]).input_ids
        rows = torch.full((3, len(ids), self.length), IGNORE)
        # Three rows per question: ids, labels of letter and end, label of the answer word.
        rows[0] = self.tokenizer.pad_token_id
        for i, (row, word) in enumerate(zip(ids, words, strict=True)):
            assert len(row) <= self.length, f"question of {len(row)} tokens"
            rows[0, i, : len(row)] = torch.tensor(row)
            # A label stands one place in front of the token it names.
            rows[1, i, len(row) - 3 : len(row) - 1] = torch.tensor(row[-2:])
            rows[2, i, row.index(self._mark)] = word[0]
        longest = max(map(len, ids))
        shaped = rows[..., :longest].reshape(3, len(padded), most, longest)
        # Repeated questions teach nothing.
        for i, row in enumerate(questions):
            shaped[1:, i, len(row) :] = IGNORE
        seen = torch.tensor([[int(q.time_s) + 1 for q in row] for row in padded])
        return QuestionTokens(shaped[0], shaped[1], shaped[2], seen)

    def token_ids(self, text: str) -> Tensor:
        """Ids [T] of ``text`` as it stands."""
        return torch.tensor(self.tokenizer(text, add_special_tokens=False).input_ids)


def rekv_question(q: PocketQuestion) -> str:
    """A question with its answer as ReKV's model reads it."""
    options = "\n".join(f"({letter}) {option}" for letter, option in zip("ABCD", q.options, strict=False))
    body = f"\nQuestion: {q.text}\nOptions:\n{options}\nOnly give the best option."
    return f"{body}<|im_end|><|im_start|>assistant\nBest option: ({q.answer}<|im_end|>"


@dataclass
class StreamBatch:
    """S streams of T frames of B chosen cells: ``cells`` [S, T, B], what they hold, questions about them, and
    ``tokens`` [S, T, B, D] where they are real."""

    cells: Tensor
    kind: Tensor
    color: Tensor
    coverage: Tensor
    questions: QuestionTokens
    tokens: Tensor | None = None


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
        # Long streams only where their tokens fit into one pass.
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
    # Random scores break ties; what is preferred gets a whole point more.
    score = rng.random((labels.kind.shape[0], CELLS))
    style = rng.random() * (0.6 if budget < 16 else 1.0)
    if style < 0.35:
        score += labels.kind != BACKGROUND
    elif style < 0.6:
        score += labels.is_object
    return np.sort(np.argpartition(-score, budget - 1, axis=1)[:, :budget], axis=1)


class Batches(Dataset):
    """Batch ``step`` of endlessly many; same step, same batch."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, step: int):
        return self.draw(np.random.default_rng([self.seed, step]), step)

    def draw(self, rng: np.random.Generator, step: int):
        """Batch ``step``, all chance from ``rng``; alone, the generator is the batch."""
        return rng


class SymbolBatches(Batches):
    """Fresh streams that are never drawn, only labelled."""

    def __init__(self, encoder: QuestionEncoder, mixes: dict[int, Mix], seed: int) -> None:
        """``mixes``: see :func:`mix_at`."""
        super().__init__(seed)
        self.encoder, self.mixes = encoder, mixes

    def draw(self, rng: np.random.Generator, step: int) -> StreamBatch:
        """Batch ``step``."""
        mix = mix_at(self.mixes, step)
        duration, budget, size = mix.draw(rng)
        scripts = [sample_script(int(s), duration) for s in rng.integers(1 << 40, 1 << 41, size=size)]
        labels = [label_stream(script) for script in scripts]
        questions = [sample_questions(script, mix.num_questions, step, emphasis=mix.emphasis) for script in scripts]
        return gather_batch(rng, labels, questions, self.encoder, budget)


class StillBatches(Batches):
    """The last picture of a stream with questions about now: matching is learned here in a few hundred steps."""

    def __init__(self, encoder: QuestionEncoder, seed: int, size: int = 16, budget: int = 14) -> None:
        super().__init__(seed)
        self.encoder, self.size, self.budget = encoder, size, budget

    def draw(self, rng: np.random.Generator, step: int) -> StreamBatch:
        """Batch ``step``."""
        # Streams about which nothing can be asked at this moment are left out.
        labels, questions = [], []
        while len(labels) < self.size:
            script = sample_script(int(rng.integers(1 << 40, 1 << 41)), 8)
            asked = sample_questions(script, 8, step, first_s=7, families=("realtime",))
            if asked:
                questions.append(asked)
                labels.append(cell_labels(Renderer(script, textured=False), np.array([7.0])))
        batch = gather_batch(rng, labels, questions, self.encoder, self.budget)
        batch.questions.frames_seen[:] = 1
        return batch


def gather_batch(
    rng: np.random.Generator,
    labels: list[CellLabels],
    questions: list[list[PocketQuestion]],
    encoder: QuestionEncoder,
    budget: int,
) -> StreamBatch:
    """Choose cells in every frame and put all into tensors."""
    cells = np.stack([choose_cells(rng, label, budget) for label in labels])

    def take(name: str) -> Tensor:
        return torch.from_numpy(np.take_along_axis(np.stack([getattr(x, name) for x in labels]), cells, axis=2))

    return StreamBatch(torch.from_numpy(cells), take("kind"), take("color"), take("coverage"), encoder(questions))


class BindingBatches(Batches):
    """Text only: "say red ?" with four options, so that letters are bound to options before anything is seen."""

    def __init__(self, encoder: QuestionEncoder, seed: int, size: int = 8) -> None:
        super().__init__(seed)
        self.encoder, self.size = encoder, size

    def draw(self, rng: np.random.Generator, step: int) -> StreamBatch:
        """Batch ``step``."""
        rows = [[say_question(rng, 0.0) for _ in range(12)] for _ in range(self.size)]
        nothing = torch.zeros(self.size, 0, 0, dtype=torch.long)
        return StreamBatch(nothing, nothing, nothing, nothing.float(), self.encoder(rows))


def say_question(rng: np.random.Generator, time_s: float) -> PocketQuestion:
    """A question that says its answer, "say red ?", with four options."""
    names = (SHAPES, COLOR_NAMES, CORNERS, NUMBERS)[int(rng.integers(4))]
    options = tuple(str(name) for name in rng.permutation(names)[:4])
    right = int(rng.integers(4))
    return PocketQuestion(time_s, f"say {options[right]} ?", options, "ABCD"[right], "say", "say")


class TokenBatches(Batches):
    """Streams of which a tower's tokens are kept, with fresh questions and fresh choices of cells."""

    def __init__(
        self, caches: Mapping[int, FeatureCache], encoder: QuestionEncoder, mixes: Mapping[int, Mix], seed: int
    ) -> None:
        super().__init__(seed)
        self.caches, self.encoder, self.mixes = caches, encoder, mixes

    def draw(self, rng: np.random.Generator, step: int) -> StreamBatch:
        """Batch ``step``."""
        mix = mix_at(self.mixes, step)
        duration, budget, size = mix.draw(rng)
        cache = self.caches[duration]
        chosen = rng.integers(len(cache), size=size)
        scripts = [cache.script(int(i)) for i in chosen]
        labels = [label_stream(script) for script in scripts]
        questions = [sample_questions(script, mix.num_questions, step + 1, emphasis=mix.emphasis) for script in scripts]
        batch = gather_batch(rng, labels, questions, self.encoder, budget)
        pairs = zip(cache.stack("tokens", chosen), batch.cells.numpy(), strict=True)
        tokens = np.stack([np.take_along_axis(seen, cells[..., None], 1) for seen, cells in pairs])
        batch.tokens = torch.from_numpy(tokens).float()
        return batch


class Prefetcher:
    """Batches of ``dataset`` in step order, made in another process while the model trains."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset, self._batches, self._next = dataset, None, -1

    def __getitem__(self, step: int):
        if self._batches is None or step != self._next:
            steps = range(step, len(self._dataset))
            loader = DataLoader(self._dataset, batch_size=None, sampler=steps, num_workers=1, prefetch_factor=4)
            self._batches = iter(loader)
        self._next = step + 1
        return next(self._batches)

"""Dispider's reaction stage: the language model reads selected clips, their memories and the summary, and answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from stc_lab.backbones.dispider.model import after_video, before_video
from stc_lab.backbones.dispider.networks import DispiderModel
from stc_lab.memories.dispider import question_sequence
from stc_lab.pocket.world.labels import CellLabels
from stc_lab.pocket.world.questions import PocketQuestion
from stc_lab.training.batches import (
    CELLS,
    Batches,
    Mix,
    QuestionEncoder,
    QuestionTokens,
    StreamBatch,
    choose_cells,
    mix_at,
)
from stc_lab.training.dispider_compressor import Compressor, JudgeSequence, asked_at_end, clip_views, draw_end
from stc_lab.training.features import CLIP_FRAMES, FeatureCache
from stc_lab.training.language import AnswerLearner, padded
from stc_lab.training.models.dispider import LAB_SETTINGS
from stc_lab.types import Question

TOPK = LAB_SETTINGS["topk"]


def dispider_questions(tokenizer: PreTrainedTokenizerFast) -> QuestionEncoder:
    """Questions in Dispider's own prompt."""
    return QuestionEncoder(tokenizer, before_video(), _text_of)


def _text_of(q: PocketQuestion) -> str:
    return f"{after_video(Question('', q.time_s, q.text, q.options, q.answer))} {q.answer}<|im_end|>"


@dataclass
class StreamMemories:
    """What the frozen compressor made of one stream: ``memory`` [f, D] of every clip, ``indicators`` [clips, D],
    ``summary`` [clips, D]."""

    memory: list[Tensor]
    indicators: Tensor
    summary: Tensor


@dataclass
class Row:
    """One prefix and the questions on it: ``tokens`` [f, B, D] and ``memory`` [f, D] of each selected clip,
    ``summary`` [clips, D]."""

    tokens: list[Tensor]
    memory: list[Tensor]
    summary: Tensor
    questions: list[PocketQuestion]


class FrozenCompressor:
    """Runs the frozen compressor over clips of a cache; each clip once, as in a session."""

    def __init__(self, compressor: Compressor) -> None:
        self.compressor = compressor.eval().requires_grad_(False)
        self._known: dict[tuple[int, int, int, int], tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def __call__(self, cache: FeatureCache, stream: int, num_frames: int) -> StreamMemories:
        """Of stream ``stream`` up to ``num_frames``."""
        # A clip that has grown since is another clip.
        keys = [
            (cache.duration_s, stream, start, min(CLIP_FRAMES, num_frames - start))
            for start in range(0, num_frames, CLIP_FRAMES)
        ]
        views = clip_views(np.random.default_rng(0), cache, [stream], num_frames, CELLS)
        for key, view in zip(keys, views, strict=True):
            if key not in self._known:
                memory, indicator = self.compressor.perceive(view)
                self._known[key] = memory[0], indicator[0]
        memory, indicators = zip(*(self._known[key] for key in keys), strict=True)
        indicators = torch.stack(indicators)
        (summary,) = self.compressor.summaries([(list(memory), indicators)])
        return StreamMemories(list(memory), indicators, summary)

    @torch.no_grad()
    def select(self, question: PocketQuestion, of: StreamMemories) -> list[int]:
        """The clips that the judge picks for a question, in time order."""
        num_clips = len(of.memory)
        if num_clips <= TOPK:
            return list(range(num_clips))
        memories, indicators = [memory[None] for memory in of.memory], of.indicators[None]
        # Ask the judge as a session does, and keep the closest clips in time order.
        seq = JudgeSequence(0, question_sequence("start", num_clips), question.text)
        state, _ = self.compressor.judge([seq], memories, indicators)
        return sorted(self.compressor.similarity(state, indicators)[0].topk(TOPK).indices.tolist())


@dataclass
class ReactionBatch:
    """Rows and their questions as tokens."""

    rows: list[Row]
    questions: QuestionTokens


class ReactionBatches(Batches):
    """Rows on streams whose features are kept.

    All questions on a stream are asked at the same moment. Where every clip is selected they share a row, else each
    has its own.
    """

    def __init__(
        self,
        caches: Mapping[int, FeatureCache],
        compressor: FrozenCompressor,
        encoder: QuestionEncoder,
        mixes: Mapping[int, Mix],
        seed: int,
    ) -> None:
        super().__init__(seed)
        self.caches, self.compressor, self.encoder, self.mixes = caches, compressor, encoder, mixes

    def draw(self, rng: np.random.Generator, step: int) -> ReactionBatch:
        """Batch ``step``."""
        mix = mix_at(self.mixes, step)
        duration, budget, _ = mix.draw(rng)
        cache = self.caches[duration]
        num_frames = draw_end(rng, duration, min(self.caches))
        # Fewer rows where a prefix is long; 150 tokens are text and memories.
        per_row = min(num_frames, TOPK * CLIP_FRAMES) * budget + 150
        size = max(1, mix.tokens_per_batch // per_row)
        rows: list[Row] = []
        while len(rows) < size:
            rows += self._rows(rng, cache, num_frames, budget, mix, step)[: size - len(rows)]
        return ReactionBatch(rows, self.encoder([row.questions for row in rows]))

    def _rows(
        self, rng: np.random.Generator, cache: FeatureCache, num_frames: int, budget: int, mix: Mix, step: int
    ) -> list[Row]:
        stream = int(rng.integers(len(cache)))
        questions = asked_at_end(cache.script(stream), num_frames, mix.num_questions, step, mix.emphasis)
        if not questions:
            return []
        clips = _kept_tokens(rng, cache, stream, num_frames, budget)
        memories = self.compressor(cache, stream, num_frames)
        if len(clips) <= TOPK:
            return [Row(clips, memories.memory, memories.summary, questions)]
        return [self._row(question, clips, memories) for question in rng.permutation(questions)[:3]]

    def _row(self, question: PocketQuestion, clips: list[Tensor], of: StreamMemories) -> Row:
        chosen = self.compressor.select(question, of)
        return Row([clips[i] for i in chosen], [of.memory[i] for i in chosen], of.summary, [question])


class ReactionLearner(AnswerLearner):
    """The language model and the projector of memories."""

    def __init__(self, model: DispiderModel, encoder: QuestionEncoder) -> None:
        super().__init__(model.language.model, model.language.lm_head, encoder)
        self.compress_projector = model.compress_projector

    def prefix(self, batch: ReactionBatch | StreamBatch) -> tuple[Tensor, Tensor]:
        """What is selected for each row; nothing but the init prompt in batches of text alone."""
        if isinstance(batch, StreamBatch):
            prefixes = [self.decoder.embed_tokens(self.encoder.init_ids)] * len(batch.questions.ids)
        else:
            prefixes = [self.prefix_of(row) for row in batch.rows]
        return padded(prefixes, batch.questions)

    def prefix_of(self, row: Row) -> Tensor:
        """Everything in front of a question [P, D]."""
        parts = [self.decoder.embed_tokens(self.encoder.init_ids)]
        for tokens, memory in zip(row.tokens, row.memory, strict=True):
            parts += [tokens.flatten(0, 1), self.compress_projector(memory)]
        return torch.cat([*parts, self.compress_projector(row.summary)])


def _kept_tokens(
    rng: np.random.Generator, cache: FeatureCache, stream: int, num_frames: int, budget: int
) -> list[Tensor]:
    """Tokens [f, budget, D] of every clip, chosen as in the stages of ReKV."""
    features = cache.load(stream)
    kinds = features["kinds"][:num_frames]
    cells = choose_cells(rng, CellLabels(kinds, kinds, kinds), budget)
    tokens = np.take_along_axis(features["read"][:num_frames], cells[..., None], axis=1)
    return list(torch.from_numpy(tokens).float().split(CLIP_FRAMES))

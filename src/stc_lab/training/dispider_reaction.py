"""Dispider's reaction stage: the language model reads selected clips, their memories and the summary, and answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast

from stc_lab.backbones.dispider.model import after_video, before_video
from stc_lab.backbones.dispider.networks import DispiderModel
from stc_lab.memories.dispider import question_sequence
from stc_lab.pocket.world.labels import CellLabels
from stc_lab.pocket.world.questions import PocketQuestion
from stc_lab.training.batches import (
    CELLS,
    Mix,
    QuestionEncoder,
    QuestionTokens,
    StreamBatch,
    choose_cells,
    mix_at,
)
from stc_lab.training.dispider_clips import asked_at_end, clip_views, draw_end
from stc_lab.training.dispider_compressor import Compressor, Seq
from stc_lab.training.dispider_shelf import CLIP_FRAMES, ClipShelf
from stc_lab.training.language import answer_loss
from stc_lab.training.models.dispider import LAB_SETTINGS
from stc_lab.training.packed import packed_hidden
from stc_lab.types import Question

TOPK = LAB_SETTINGS["topk"]


class DispiderQuestions(QuestionEncoder):
    """Turns questions into padded token rows in Dispider's own prompt."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__(tokenizer)
        self.init_ids = torch.tensor(tokenizer(before_video(), add_special_tokens=False).input_ids)

    @staticmethod
    def _text(q: PocketQuestion) -> str:
        return f"{after_video(Question('', q.time_s, q.text, q.options, q.answer))} {q.answer}<|im_end|>"


@dataclass
class Memories:
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


class Rememberer:
    """Runs the frozen compressor over clips of a shelf; each clip once, as in a session."""

    def __init__(self, compressor: Compressor) -> None:
        self.compressor = compressor.eval().requires_grad_(False)
        self._known: dict[tuple[int, int, int, int], tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def __call__(self, shelf: ClipShelf, stream: int, num_frames: int) -> Memories:
        """Of stream ``stream`` up to ``num_frames``."""
        keys = [
            (shelf.duration_s, stream, start, min(CLIP_FRAMES, num_frames - start))
            for start in range(0, num_frames, CLIP_FRAMES)
        ]
        views = clip_views(np.random.default_rng(0), shelf, np.array([stream]), num_frames, CELLS)
        for key, view in zip(keys, views, strict=True):
            if key not in self._known:
                memory, indicator = self.compressor.perceive(view)
                self._known[key] = memory[0], indicator[0]
        memory, indicators = zip(*(self._known[key] for key in keys), strict=True)
        indicators = torch.stack(indicators)
        (summary,) = self.compressor.summaries([(list(memory), indicators)])
        return Memories(list(memory), indicators, summary)

    @torch.no_grad()
    def select(self, question: PocketQuestion, of: Memories) -> list[int]:
        """The clips that the judge picks for a question, in time order."""
        num_clips = len(of.memory)
        if num_clips <= TOPK:
            return list(range(num_clips))
        memories, indicators = [memory[None] for memory in of.memory], of.indicators[None]
        seq = Seq(0, question_sequence("start", num_clips), question.text)
        state, _ = self.compressor.judge([seq], memories, indicators)
        return sorted(self.compressor.similarity(state, indicators)[0].topk(TOPK).indices.tolist())


class ReactionBatches:
    """Batch ``step`` of rows from the shelves; same step, same batch.

    All questions on a stream are asked at the same moment. Where every clip is selected they share a row, else each
    has its own.
    """

    def __init__(
        self, shelves: Mapping[int, ClipShelf], rememberer: Rememberer, mixes: dict[int, Mix], seed: int
    ) -> None:
        self.shelves, self.rememberer, self.mixes, self.seed = shelves, rememberer, mixes, seed

    def __getitem__(self, step: int) -> list[Row]:
        rng = np.random.default_rng([self.seed, step])
        mix = mix_at(self.mixes, step)
        duration, budget, _ = mix.draw(rng)
        shelf = self.shelves[duration]
        num_frames = draw_end(rng, duration, min(self.shelves))
        per_row = min(num_frames, TOPK * CLIP_FRAMES) * budget + 150
        size = max(1, mix.tokens_per_batch // per_row)
        rows: list[Row] = []
        while len(rows) < size:
            rows += self._rows(rng, shelf, num_frames, budget, mix, step)[: size - len(rows)]
        return rows

    def _rows(
        self, rng: np.random.Generator, shelf: ClipShelf, num_frames: int, budget: int, mix: Mix, step: int
    ) -> list[Row]:
        stream = int(rng.integers(len(shelf.read)))
        questions = asked_at_end(shelf.script(stream), num_frames, mix.num_questions, step, mix.emphasis)
        if not questions:
            return []
        clips = _kept_tokens(rng, shelf, stream, num_frames, budget)
        memories = self.rememberer(shelf, stream, num_frames)
        if len(clips) <= TOPK:
            return [Row(clips, memories.memory, memories.summary, questions)]
        return [self._row(question, clips, memories) for question in rng.permutation(questions)[:3]]

    def _row(self, question: PocketQuestion, clips: list[Tensor], of: Memories) -> Row:
        chosen = self.rememberer.select(question, of)
        return Row([clips[i] for i in chosen], [of.memory[i] for i in chosen], of.summary, [question])


class ReactionModel(nn.Module):
    """The language model and the projector of memories."""

    def __init__(self, model: DispiderModel, encoder: QuestionEncoder) -> None:
        super().__init__()
        self.decoder, self.lm_head = model.language.model, model.language.lm_head
        self.compress_projector = model.compress_projector
        self.encoder = encoder

    def loss(self, rows: list[Row]) -> tuple[Tensor, dict[str, float]]:
        """Letter and end at the answer place, and the answer word at the question mark."""
        questions = self.encoder([row.questions for row in rows])
        return answer_loss(self.lm_head(self.hidden([self.prefix(row) for row in rows], questions)), questions)

    def binding_loss(self, batch: StreamBatch) -> tuple[Tensor, dict[str, float]]:
        """The same without anything visual."""
        questions = batch.questions
        prefixes = [self.decoder.embed_tokens(self.encoder.init_ids)] * len(questions.ids)
        return answer_loss(self.lm_head(self.hidden(prefixes, questions)), questions)

    def hidden(self, prefixes: list[Tensor], questions: QuestionTokens) -> Tensor:
        """Hidden states [S, Q, L, D] of the question tokens after their prefixes [P, D]."""
        lengths = torch.tensor([len(prefix) for prefix in prefixes])
        visible = lengths[:, None].expand(-1, questions.ids.shape[1])
        embeds = self.decoder.embed_tokens(questions.ids)
        return packed_hidden(self.decoder, pad_sequence(prefixes, batch_first=True), embeds, visible)

    def prefix(self, row: Row) -> Tensor:
        """Everything in front of a question [P, D]."""
        parts = [self.decoder.embed_tokens(self.encoder.init_ids)]
        for tokens, memory in zip(row.tokens, row.memory, strict=True):
            parts += [tokens.flatten(0, 1), self.compress_projector(memory)]
        return torch.cat([*parts, self.compress_projector(row.summary)])


def _kept_tokens(rng: np.random.Generator, shelf: ClipShelf, stream: int, num_frames: int, budget: int) -> list[Tensor]:
    """Tokens [f, budget, D] of every clip, chosen as in the stages of ReKV."""
    kinds = shelf.kinds[stream, :num_frames]
    cells = choose_cells(rng, CellLabels(kinds, kinds, kinds), budget)
    tokens = np.take_along_axis(shelf.read[stream, :num_frames], cells[..., None], axis=1)
    return list(torch.from_numpy(tokens).float().split(CLIP_FRAMES))

"""A question that is watched for: after every clip it is decided anew whether to respond."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from stc_lab.backbones.dispider.clip import Clip
from stc_lab.backbones.dispider.decision import Judge, Judgement
from stc_lab.backbones.dispider.sequence import ANSWERED, QUESTION, TO_DO, opening
from stc_lab.language.caches.growing import GrowingStore
from stc_lab.measure.flops import decoder_flops
from stc_lab.types import Question


@dataclass(frozen=True)
class Verdict:
    """A judgement about a watched question after the first ``num_clips`` clips of the stream."""

    question: Question
    time_s: float
    num_clips: int
    judgement: Judgement


class Watcher:
    """Decisions about one question, each at the cost of one clip's memory.

    The compressor reads [marker, question, summaries of answered segments, memories since] once and keeps its keys
    and values; only question and to-do marker, which must come last, are read again for every decision. The
    decisions equal those of :func:`streaming_sequence` over the whole sequence.
    """

    def __init__(self, question: Question, judge: Judge, clips: Sequence[Clip]) -> None:
        self.question = question
        self.verdicts: list[Verdict] = []
        self.answered_at: list[int] = []
        self._judge = judge
        self._store = GrowingStore(judge.decoder.shape)
        self._segment: list[Clip] = []
        self._tail, _ = judge.embeds([QUESTION, TO_DO], question.query, ())
        embeds, flops = judge.embeds(opening(len(clips)), question.query, clips)
        self.flops = flops + self._read(embeds)[1]

    @property
    def num_bytes(self) -> int:
        """Bytes of the keys and values that are kept."""
        shape = self._judge.decoder.shape
        per_token = 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * self._tail.element_size()
        return len(self._store) * per_token

    def observe(self, clips: Sequence[Clip], time_s: float) -> Verdict:
        """Judge after the last of ``clips``, the only one that is new. ``flops`` of the judgement count all of it."""
        self._segment.append(clips[-1])
        flops = self.flops + self._read(clips[-1].memory)[1]
        state, cost = self._read(self._tail)
        self._store.drop_last(len(self._tail))
        judgement = self._judge.judge(state, clips, flops + cost)
        self.flops = self._close_segment(len(clips)) if judgement.responds else 0
        self.verdicts.append(Verdict(self.question, time_s, len(clips), judgement))
        return self.verdicts[-1]

    def _close_segment(self, num_clips: int) -> int:
        """Summarise the clips since the last answer; returns the FLOPs, which the next judgement bears."""
        summary, flops = self._judge.summary(self._segment)
        self._store.drop_last(sum(len(clip.memory) for clip in self._segment))
        marker, _ = self._judge.embeds([ANSWERED], "", ())
        cost = self._read(summary)[1] + self._read(marker)[1]
        self._segment = []
        self.answered_at.append(num_clips)
        return flops + cost

    def _read(self, embeds: Tensor) -> tuple[Tensor, int]:
        """Last state [C] after ``embeds`` [T, C], and the FLOPs."""
        decoder, context = self._judge.decoder, len(self._store)
        state = decoder(embeds, self._store)[-1]
        return state, decoder_flops(decoder.sizes, len(embeds), context)

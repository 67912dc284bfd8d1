"""A stream on its way through a Qwen-VL model: frames in pairs, turns, questions."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from stc_lab.backbones.answers import best_letter
from stc_lab.backbones.qwen_vl.choosing import choices_of, prediction_of, reader_of
from stc_lab.backbones.qwen_vl.memory import Memory, Patch, Request
from stc_lab.backbones.qwen_vl.pairs import Pairing
from stc_lab.backbones.qwen_vl.prompts import answer_start, question_text
from stc_lab.backbones.qwen_vl.speaking import Spoken, Voice
from stc_lab.backbones.session import StreamSession
from stc_lab.types import Answer, FrameReport, Question, VisualTokens

if TYPE_CHECKING:
    from stc_lab.backbones.qwen_vl.backbone import QwenVL
    from stc_lab.backbones.qwen_vl.view import FrameView
    from stc_lab.cachers.base import Cacher
    from stc_lab.measure import StageTimer
    from stc_lab.pruners.base import Pruner


class QwenSession(StreamSession):
    """Video frames are joined to temporal patches of two, which are the frames of cacher, pruner and reports.

    A frame that still waits for its partner when a question comes is shown to the model twice, for this question
    only, and so are temporal patches that do not make a whole turn yet: a question leaves the stream as it was
    (unless it is to be remembered). ``backbone`` is the model as it sees frames of this stream's size.
    """

    backbone: FrameView

    def __init__(self, model: QwenVL, cacher: Cacher, pruner: Pruner, timer: StageTimer | None = None) -> None:
        self.model = model
        super().__init__(model.square, cacher, pruner, timer)

    def reset(self) -> None:
        """See :meth:`StreamSession.reset`."""
        self._pairing = Pairing(self.model.options.fps)
        super().reset()

    def push(self, frames: Sequence[np.ndarray], timestamps_s: Sequence[float]) -> list[FrameReport]:
        """See :meth:`StreamSession.push`; a report covers two frames, with the time of the second."""
        self._require_open()
        super()._check_times(frames, timestamps_s)
        return super().push(*self._pairing.take(frames, timestamps_s))

    @torch.inference_mode()
    def finish(self) -> list[FrameReport]:
        """The stream is over: what waits for a partner or for a whole turn is shown as it is. Returns the reports."""
        self._require_open()
        self._commit_half()
        self._finish_all()
        self._memory.finish()
        self._note_lines()
        return self._take_reports()

    def say(self, message: str) -> None:
        """Tell the model something with the next turn of the stream. Raises ``ValueError`` without turns."""
        self._require_open()
        self._memory.address(message)

    def stats(self) -> dict[str, int]:
        """``num_frames`` counts video frames, ``num_pending_frames`` those that are not in the memory yet;
        ``num_tokens`` and ``kv_bytes_*``: what the memory holds now."""
        pending = 2 * len(self._pending) + (self._pairing.waiting is not None)
        counts = {"num_frames": self._pairing.num_frames, "num_pending_frames": pending}
        return counts | self._memory.stats()

    @abstractmethod
    def _new_memory(self) -> Memory:
        """The memory of a new stream."""

    def _start_memory(self) -> None:
        self._memory = self._new_memory()

    def _drop_memory(self) -> None:
        self._memory = None

    def _check_times(self, frames: Sequence[np.ndarray], timestamps_s: Sequence[float]) -> None:
        """Frames were checked one by one, before they were joined."""

    def _encode(self, frames: Sequence[np.ndarray], timestamps_s: Sequence[float]) -> list:
        view = self.model.view(*frames[0].shape[1:3])
        if view is not self.backbone:  # no cacher compares frames of different size
            self._finish_all()
            self.backbone = view
            self._cacher_state = self.cacher.new_state()
        pending = super()._encode(frames, timestamps_s)
        for frame in pending:
            frame.report.num_source_frames = 2
        return pending

    def _remember(self, frames: Sequence[VisualTokens]) -> list[int]:
        return self._memory.watch([self._patch(frame, self._pairing.next_start()) for frame in frames])

    def _patch(self, visual: VisualTokens, start_s: float) -> Patch:
        return Patch(visual, start_s, start_s + 2 / self.model.options.fps)

    def _finish(self, num_frames: int) -> None:
        super()._finish(num_frames)
        self._note_lines()

    def _note_lines(self) -> None:
        """What was said goes into the last report there is."""
        if not self._reports:
            return
        lines, flops = self._memory.take_lines()
        report = self._reports[-1]
        report.commentary += lines
        if flops:
            report.flops["speak"] = report.flops.get("speak", 0) + flops

    def _commit_half(self) -> None:
        """Take the frame that waits for its partner into the stream, shown twice."""
        if self._pairing.waiting is None:
            return
        pair, _ = self._pairing.commit_half()
        self._pending += self._encode([pair], [self._last_time_s])
        self._pending[-1].report.num_source_frames = 1
        self.num_frames += 1
        self._finish_all()

    def _answer(self, question: Question, mark: float) -> Answer:
        timer, options, memory = self.timer, self.model.options, self._memory
        if self.model.asking_changes_stream:
            self._commit_half()
        unseen, extra_ms = self._half()
        reader = reader_of(self.model, question)
        start = answer_start(question, reader != "generate")
        with timer.stage("question"):
            logits, cost = memory.ask(Request(question_text(question), start, unseen))
            choices = choices_of(self.model, question, reader, logits)
        ttft_ms = timer.elapsed_ms(mark)
        spoken, flops = None, 0
        with timer.stage("generate"):
            if reader == "generate":
                spoken, flops = memory.say(Voice(options.repetition_penalty), logits, options.max_new_tokens)
        text = best_letter(choices) if spoken is None else self.model.loaded.text(spoken.ids)
        memory.settle(self._kept(spoken, text))
        return Answer(
            text=text,
            prediction=prediction_of(question, reader, text),
            reader=reader,
            num_prompt_tokens=cost.num_tokens,
            num_generated_tokens=0 if spoken is None else len(spoken.ids),
            ttft_ms=ttft_ms,
            letter_logits=choices or None,
            latency_ms=extra_ms | timer.drain(),
            flops={"question": cost.flops, "generate": flops},
            details={"num_context_tokens": cost.num_context},
            first_logits=logits,
        )

    def _kept(self, spoken: Spoken | None, text: str) -> Spoken | None:
        """What of an answer is remembered: nothing."""
        return None

    def _half(self) -> tuple[list[Patch], dict[str, float]]:
        """The frame that waits for its partner, shown twice and forgotten again, and what that took."""
        if self._pairing.waiting is None:
            return [], {}
        saved, view = copy.deepcopy((self._cacher_state, self._pruner_state)), (self.backbone, self._probe.last)
        pair, start_s = self._pairing.half()
        (encoded,) = self._encode([pair], [self._last_time_s])
        with self.timer.stage("prune"):
            (kept,), _ = self._prune([encoded])
        (self._cacher_state, self._pruner_state), (self.backbone, self._probe.last) = saved, view
        return [self._patch(kept, start_s)], encoded.report.latency_ms | self.timer.drain()

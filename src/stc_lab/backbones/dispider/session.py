"""A stream on Dispider: perception and decision with every clip, reaction when asked or when it is time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stc_lab.backbones.dispider.background import Background
from stc_lab.backbones.dispider.decision import Judgement
from stc_lab.backbones.dispider.model import mix
from stc_lab.backbones.dispider.reaction import View
from stc_lab.backbones.dispider.timeline import Timeline
from stc_lab.backbones.dispider.watch import Verdict, Watcher
from stc_lab.backbones.proactive import Proactive
from stc_lab.backbones.session import StreamSession
from stc_lab.measure import StageTimer
from stc_lab.types import Answer, Decision, Question, VisualTokens

if TYPE_CHECKING:
    from stc_lab.backbones.dispider.backbone import Dispider


class DispiderSession(StreamSession, Proactive):
    """Clips are perceived once, when they are complete; questions judge and retrieve them.

    Perception and decisions count as ``prefill`` of the frame that completes the clip. A watched question (see
    :class:`Proactive`) gets a decision with every clip. With ``backbone.asynchronous`` reactions run beside the
    stream: what :meth:`submit` returns may be waited for while frames are pushed. What an answer sees is fixed when
    it is submitted, so both modes give the same answers.
    """

    backbone: Dispider
    _background: Background | None = None

    def stats(self) -> dict[str, int]:
        """Sizes of the memory.

        ``num_tokens``: tokens kept for the language model; ``num_blocks``: complete clips; ``num_open_frames``: those
        of the clip that is not. ``kv_bytes_device``: tokens, clip memories, indicators, frames of the open clip, and
        the keys and values of watched questions; ``kv_bytes_host``: tokens in host memory.
        """
        sizes = self._timeline.sizes()
        sizes["kv_bytes_device"] += sum(watcher.num_bytes for watcher in self._watchers.values())
        return super().stats() | sizes | {"num_watched": len(self._watchers)}

    @torch.inference_mode()
    def watch(self, question: Question) -> None:
        """See :class:`Proactive`; what came before is read in summarised form. Decisions are made from now on."""
        self._require_question(question)
        if question.question_id in self._watchers:
            raise ValueError(f"question '{question.question_id}' is watched already")
        self._watchers[question.question_id] = Watcher(question, self.backbone.judge, self._timeline.clips)

    def unwatch(self, question_id: str) -> None:
        """See :class:`Proactive`; answers that were submitted are finished."""
        self._require_open()
        self._watchers.pop(question_id, None)

    @torch.inference_mode()
    def submit(self, request: Question | Decision) -> Future[Answer]:
        """See :class:`Proactive`. A decision is answered from the clips it was made on, whatever came since."""
        if isinstance(request, Decision):
            self._require_open()
            return self._react_to(self._verdict(request))
        self._require_question(request)
        mark = self.timer.mark()
        self._finish_all()
        return self._react(request, mark)

    def _start_memory(self) -> None:
        self._close_background()
        backbone = self.backbone
        offload = backbone.offloads
        self._timeline = Timeline(backbone.perception, backbone.judge, backbone.borders, offload)
        self._background = Background(backbone.options.asynchronous, backbone.device)
        self._watchers: dict[str, Watcher] = {}
        self._fresh: list[tuple[int, Decision]] = []

    def _drop_memory(self) -> None:
        self._close_background()
        self._timeline, self._watchers = None, {}

    def _close_background(self) -> None:
        if self._background is not None:
            self._background.close()
            self._background = None

    def _window_size(self) -> int:
        """A pruner's window ends with the clip: a decision waits for no frame after it."""
        return min(super()._window_size(), self._timeline.num_missing)

    def _note_features(self, features: Tensor) -> None:
        self._timeline.expect(mix(features[:, self.backbone.tower.num_special_tokens :]))

    def _remember(self, frames: Sequence[VisualTokens]) -> list[int]:
        return [self._take(number, frame) for number, frame in enumerate(frames)]

    def _take(self, number: int, frame: VisualTokens) -> int:
        is_complete, flops = self._timeline.take(frame)
        if is_complete:
            for watcher in self._watchers.values():
                verdict = watcher.observe(self._timeline.clips, self._timeline.close_time_s)
                flops += verdict.judgement.flops
                self._fresh.append((number, _decision(verdict)))
        return flops

    def _finish(self, num_frames: int) -> None:
        super()._finish(num_frames)
        reports = self._reports[-num_frames:]
        for number, decision in self._fresh:
            reports[number].decisions.append(decision)
        self._fresh = []

    def _answer(self, question: Question, mark: float) -> Answer:
        return self._react(question, mark).result()

    def _react(self, question: Question, mark: float) -> Future[Answer]:
        """Judge and retrieve for a question now, and hand over to the reaction."""
        place = self.backbone.options.question_place
        with self.timer.stage("retrieve"):
            clips, flops = self._timeline.view()
            judgement = self.backbone.judge.ask(question.query, clips, place)
            summary, more = self._timeline.summary()
        view = View(clips, judgement.selected, summary)
        return self._start(question, view, judgement, mark, flops + more + judgement.flops)

    def _react_to(self, verdict: Verdict) -> Future[Answer]:
        mark, judgement = self.timer.mark(), verdict.judgement
        with self.timer.stage("retrieve"):
            clips = tuple(self._timeline.clips[: verdict.num_clips])
            summary, flops = self.backbone.judge.summary(clips)
        return self._start(verdict.question, View(clips, judgement.selected, summary), judgement, mark, flops)

    def _start(
        self, question: Question, view: View, judgement: Judgement, mark: float, flops: int
    ) -> Future[Answer]:
        cost = {"latency_ms": self.timer.drain(), "flops": {"retrieve": flops}}
        details = self._details(view, judgement)
        return self._background.start(partial(self._reaction, question, view, mark, cost, details))

    def _reaction(
        self, question: Question, view: View, mark: float, cost: dict[str, dict], details: dict[str, Any]
    ) -> Answer:
        """Runs in the background: touches nothing of the session that changes."""
        answer = self.backbone.reaction.answer(question, view, StageTimer(self.backbone.device), mark)
        answer.latency_ms = cost["latency_ms"] | answer.latency_ms
        answer.flops = cost["flops"] | answer.flops
        answer.details = details | answer.details
        return answer

    def _details(self, view: View, judgement: Judgement) -> dict[str, Any]:
        return {
            "num_clips": len(view.clips),
            "selected_clips": list(judgement.selected),
            "num_frames": sum(clip.num_frames for clip in view.clips),
            "response_score": judgement.score,
        }

    def _verdict(self, decision: Decision) -> Verdict:
        watcher = self._watchers.get(decision.question_id)
        for verdict in watcher.verdicts if watcher else ():
            if _decision(verdict) == decision:
                return verdict
        raise ValueError(f"question '{decision.question_id}': no decision of {decision.time_s} s in this session")


def _decision(verdict: Verdict) -> Decision:
    judgement = verdict.judgement
    return Decision(verdict.question.question_id, verdict.time_s, judgement.score, judgement.responds)

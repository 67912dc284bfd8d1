"""The rounds of StreamingVLM: sink and window of text, a window of vision, and a cache of constant size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from stc_lab.backbones.qwen_vl.commentary import SpeakingMemory, store_stats
from stc_lab.backbones.qwen_vl.layout import Axes
from stc_lab.backbones.qwen_vl.memory import Cost, Patch, Request, seen_mask
from stc_lab.backbones.qwen_vl.speaking import Spoken, Voice, speak
from stc_lab.backbones.streamingvlm.eviction import QUERY, REPLY, REPLY_TAIL, evicted
from stc_lab.backbones.streamingvlm.spans import Bookmark, Scroll, Span
from stc_lab.backbones.streamingvlm.turns import TurnWriter

if TYPE_CHECKING:
    from stc_lab.backbones.streamingvlm.backbone import StreamingVLM
    from stc_lab.measure import StageTimer


class StreamingMemory(SpeakingMemory):
    """One round per second: what the user shows, what the model says. Before each round, what is old leaves.

    A question is a turn of text at the end (with the clip that waits for a round, if any) and leaves no trace.
    """

    def __init__(self, model: StreamingVLM, axes: Axes, timer: StageTimer) -> None:
        super().__init__(model, timer)
        self._windows = model.options.windows
        self._num_rounds = 0
        self._query = model.options.query
        self._news = self._query
        self._mark: Bookmark | None = None
        self.scroll = Scroll(model, axes, model.options.positions == "shrink")
        self._turns = TurnWriter(model.loaded)
        self.scroll.spans = self._turns.opening(self._options.previous_text)

    def address(self, message: str) -> None:
        self._query = self._news = message

    def ask(self, request: Request) -> tuple[Tensor, Cost]:
        self._mark = self.scroll.mark()
        patches = [*self._waiting, *request.unseen]
        self._show(patches, request.text)
        self.scroll.spans.append(self._turns.text(REPLY, self._num_rounds, request.answer_start))
        return self.scroll.read()

    def say(self, voice: Voice, logits: Tensor, max_new_tokens: int) -> tuple[Spoken, int]:
        return self._say(voice, logits, max_new_tokens, self._model.loaded.stop_ids)

    def settle(self, spoken: Spoken | None) -> None:
        self.scroll.rewind(self._mark)
        self._mark = None

    def stats(self) -> dict[str, int]:
        return store_stats(self.scroll.store) | {"num_rounds": self._num_rounds}

    def begin_round(self) -> None:
        """Let go of what is old, before a round is shown."""
        if self._windows.text_rounds == 1 and self._num_rounds and not self._options.upstream_quirks:
            self.scroll.read()  # the answer that moves must have been read to its end
        spans, silence_id = self.scroll.numbered(), self._model.loaded.silence_id
        quirks = self._options.upstream_quirks
        self.scroll.rearrange(evicted(spans, self._num_rounds, self._windows, silence_id, quirks))

    def _is_turn(self) -> bool:
        return len(self._waiting) == self._windows.patches_per_round

    def _take_turn(self) -> int:
        patches, self._waiting = self._waiting, []
        self.begin_round()
        is_lost = not self._options.upstream_quirks and all(span.kind != QUERY for span in self.scroll.spans)
        text, self._news = self._news or (self._query if is_lost else ""), ""
        self._show(patches, text)
        logits, cost = self.scroll.read()
        self.scroll.spans.append(Span(REPLY, self._num_rounds, []))
        with self._timer.apart("speak"):
            self._comment(logits, patches)
        self.scroll.spans.append(Span(REPLY_TAIL, self._num_rounds, [self._model.loaded.im_end_id]))
        self._num_rounds += 1
        return cost.flops

    def _show(self, patches: Sequence[Patch], text: str) -> None:
        self.scroll.spans += self._turns.shown(self._num_rounds, patches, text, self.scroll.spans[-1])

    def _comment(self, logits: Tensor, patches: Sequence[Patch]) -> None:
        """Say something about a round, or stay silent."""
        options, loaded = self._options, self._model.loaded
        if not options.commentary:
            self.scroll.spans[-1].ids.append(loaded.silence_id)
            return
        voice = Voice(options.repetition_penalty, options.temperature)
        spoken, flops = self._say(voice, logits, options.commentary_tokens, self._stops)
        self._note(patches, spoken, flops)

    def _say(self, voice: Voice, logits: Tensor, limit: int, stops: frozenset[int]) -> tuple[Spoken, int]:
        """Words into the last span; a stop token other than `` ...`` is none of them."""
        flops, span = 0, self.scroll.spans[-1]
        seen = seen_mask(len(logits), logits.device)
        seen[self.scroll.ids] = True

        def read(token: int) -> Tensor:
            nonlocal flops
            span.ids.append(token)
            after, cost = self.scroll.read()
            flops += cost.flops
            return after

        spoken = speak(voice, logits, seen, read, limit, stops, self._generator)
        if spoken.ids[-1] not in self._model.loaded.stop_ids:
            span.ids.append(spoken.ids[-1])
        return spoken, flops

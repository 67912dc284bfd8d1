"""The conversation of LiveCC: one turn per second of video, in a cache that only grows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from stc_lab.backbones.qwen_vl.commentary import SpeakingMemory, store_stats
from stc_lab.backbones.qwen_vl.layout import Axes, Clip, Piece
from stc_lab.backbones.qwen_vl.memory import Cost, Patch, Request
from stc_lab.backbones.qwen_vl.prompts import ASSISTANT, CLOSE, SYSTEM, USER, VISION_END, VISION_START, time_text
from stc_lab.backbones.qwen_vl.speaking import Spoken, Voice
from stc_lab.backbones.qwen_vl.thread import Mark, Thread

if TYPE_CHECKING:
    from stc_lab.backbones.livecc.backbone import LiveCC
    from stc_lab.measure import StageTimer

FIRST_TURN = 3
"""Temporal patches of the first turn (6 frames); every later turn has one (2 frames)."""


class LiveCCMemory(SpeakingMemory):
    """Turns of the user show seconds, turns of the model say something about them, or nothing (`` ...``).

    The first turn has three-axis positions, later ones count on in one dimension, clips included, as the model was
    trained; ``positions=3d`` places all clips on three axes. ``owed``: tokens that were said and not read yet; they
    are read with the next turn. With ``upstream_quirks`` they are lost, as in the released code.
    """

    def __init__(self, model: LiveCC, timer: StageTimer) -> None:
        super().__init__(model, timer)
        self._thread = Thread(model, Axes())
        self._owed: list[int] = []
        self._num_turns = 0
        self._message = model.options.query
        self._question: tuple[Mark, int] | None = None

    @property
    def thread(self) -> Thread:
        """The conversation so far, as the decoder has read it."""
        return self._thread

    def address(self, message: str) -> None:
        self._message = message

    def ask(self, request: Request) -> tuple[Tensor, Cost]:
        patches = [*self._waiting, *request.unseen]
        self._question = self._thread.mark(), len(self._waiting)
        return self._thread.read(self._turn(patches, request.text, request.answer_start), self._axes())

    def say(self, voice: Voice, logits: Tensor, max_new_tokens: int) -> tuple[Spoken, int]:
        return self._thread.say(voice, logits, max_new_tokens, self._model.loaded.stop_ids)

    def settle(self, spoken: Spoken | None) -> None:
        mark, num_waiting = self._question
        self._question = None
        if spoken is None:
            self._thread.rewind(mark)
            return
        self._waiting = self._waiting[num_waiting:]
        self._num_turns += 1
        self._owe(spoken.ids)

    def stats(self) -> dict[str, int]:
        return store_stats(self._thread.store) | {"num_turns": self._num_turns}

    def _is_turn(self) -> bool:
        return self._num_turns > 0 or len(self._waiting) == FIRST_TURN

    def _take_turn(self) -> int:
        patches, self._waiting = self._waiting, []
        message, self._message = self._message, ""
        logits, cost = self._thread.read(self._turn(patches, message), self._axes())
        self._num_turns += 1
        with self._timer.apart("speak"):
            self._comment(logits, patches)
        return cost.flops

    def _comment(self, logits: Tensor, patches: Sequence[Patch]) -> None:
        """Say something about a turn, or stay silent."""
        options, loaded = self._options, self._model.loaded
        if not options.commentary:
            self._owed = [loaded.silence_id]
            return
        voice = Voice(
            repetition_penalty=options.repetition_penalty,
            temperature=options.temperature,
            silence_threshold=options.silence_threshold,
            silence_step=options.silence_step,
            silence_id=loaded.silence_id,
        )
        spoken, flops = self._thread.say(voice, logits, options.commentary_tokens, self._stops, self._generator)
        self._note(patches, spoken, flops)
        self._owe(spoken.ids)

    def _owe(self, ids: Sequence[int]) -> None:
        """The last token said was not read; an end token is written by the next turn anyway."""
        is_lost = self._options.upstream_quirks or ids[-1] in self._model.loaded.stop_ids
        self._owed = [] if is_lost else [ids[-1]]

    def _turn(self, patches: Sequence[Patch], text: str, answer_start: str = "") -> list[Piece]:
        """A turn of the user with a clip of ``patches`` (if any), up to where the model speaks."""
        token_ids = self._model.loaded.token_ids
        before = f"{CLOSE if self._num_turns else SYSTEM}{USER}"
        after = f"{text}{CLOSE}{ASSISTANT}{answer_start}"
        owed, self._owed = self._owed, (self._owed if self._question else [])
        if not patches:
            return [owed, token_ids(before + after)]
        before += time_text(patches[0].start_s, patches[-1].stop_s) + VISION_START
        clip = Clip(tuple(patch.visual for patch in patches))
        return [owed, token_ids(before), clip, token_ids(VISION_END + after)]

    def _axes(self) -> Axes:
        return Axes(is_flat=self._num_turns > 0 and self._options.positions == "official")

"""Streams as LiveCC and StreamingVLM read them: turns with clips, replies and questions, with their positions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from stc_lab.language.chat import (
    ASSISTANT,
    CLOSE,
    ELLIPSIS,
    IM_END,
    SYSTEM,
    USER,
    VISION_END,
    VISION_START,
    time_text,
)
from stc_lab.language.sequence import Clip, TimeRowColumn
from stc_lab.memories.streamingvlm import QUERY, REPLY, REPLY_TAIL, Span, StreamingVLM, TurnWriter, evicted
from stc_lab.training.qwen_strips import Asked, Film, Reading, Strip, Words
from stc_lab.types import VisualTokens


class TurnLayout:
    """What LiveCC and StreamingVLM share: a turn of the user, then a reply that ends with `` ...``."""

    def __init__(self, words: Words) -> None:
        self.words = words

    def reply(self, strip: Strip, line: str) -> None:
        """What is said about a turn; the end token is written with what follows."""
        strip.text(self.words.token_ids(f"{line}{ELLIPSIS}"), says=True)

    def close(self, strip: Strip) -> None:
        """The end of a reply."""
        strip.text(self.words.token_ids(CLOSE), says=True)

    def turn(
        self, strip: Strip, before: str, pieces: list[tuple[int, VisualTokens]], text: str, axes: TimeRowColumn
    ) -> None:
        """A turn with a clip of numbered patches (if any), up to where the model speaks."""
        ids = self.words.token_ids
        strip.text(ids(before + USER))
        if pieces:
            numbers, patches = zip(*pieces, strict=True)
            strip.text(ids(time_text(patches[0].start_s, patches[-1].stop_s) + VISION_START))
            strip.clip(self.words.video_id, numbers, Clip(tuple(patches)), axes)
            strip.text(ids(VISION_END))
        strip.text(ids(f"{text}{CLOSE}{ASSISTANT}"))

    def answer(self, strip: Strip, asked: Asked) -> None:
        """What stands behind a question."""
        strip.text(self.words.token_ids(asked.start))
        strip.text(self.words.token_ids(f"{asked.letter}{IM_END}"), says=True)

    def unseen(self, film: Film, waiting: Iterable[int], half: int | None) -> list[tuple[int, VisualTokens]]:
        """Pairs that wait for a turn, and the frame that waits for a partner, shown twice."""
        pieces = list(zip(waiting, film.pairs(waiting), strict=True))
        return pieces if half is None else [*pieces, (film.halves[half], film.patch(film.halves[half], half))]


class LiveCCLayout(TurnLayout):
    """Three patches in the first turn, placed on three axes; one in the others, placed on one."""

    first_turn = 3
    query = "Please describe the video."

    def turns(self, num_pairs: int) -> list[list[int]]:
        """Patches of the complete turns."""
        if num_pairs < self.first_turn:
            return []
        return [list(range(self.first_turn)), *([n] for n in range(self.first_turn, num_pairs))]

    def read(self, film: Film, lines: Sequence[str], asked: Sequence[Asked]) -> Reading:
        """The conversation with ``lines`` said after its turns, and questions on the way."""
        prefix, ends = Strip(), [0]
        for index, numbers in enumerate(self.turns(film.num_pairs)):
            if index:
                self.close(prefix)
            pieces = list(zip(numbers, film.pairs(numbers), strict=True))
            before, query = ("", "") if index else (SYSTEM, self.query)
            self.turn(prefix, before, pieces, query, TimeRowColumn(is_flat=index > 0))
            self.reply(prefix, lines[index])
            ends.append(len(prefix))
        reading = Reading(prefix, [], [], list(asked))
        at = [0.0, *prefix.positions[0, [end - 1 for end in ends[1:]]].tolist()]
        for one in asked:
            pairs, half = film.seen(one.time_s)
            done = len(self.turns(pairs))
            pieces = self.unseen(film, range(0 if done else pairs), half)
            strip = Strip(next=at[done] + 1 if done else 0.0)
            self.turn(strip, CLOSE if done else SYSTEM, pieces, one.text, TimeRowColumn(is_flat=done > 0))
            self.answer(strip, one)
            reading.questions.append(strip)
            reading.visible.append(ends[done])
        return reading

    def moment(self, film: Film, rng: np.random.Generator) -> int | None:
        """The second at which all questions have to be asked; ``None``: any."""
        return None


class StreamingVLMLayout(TurnLayout):
    """A round for each patch on three axes; what the session's own eviction leaves of a long stream, placed anew.

    Keys and values of what is left are computed anew here, where a session keeps those that were computed before others
    left.
    """

    query = StreamingVLM.query

    def __init__(self, words: Words) -> None:
        super().__init__(words)
        self._writer = TurnWriter(words.token_ids, words.video_id)

    def turns(self, num_pairs: int) -> list[list[int]]:
        """Patches of the rounds."""
        return [[number] for number in range(num_pairs)]

    def moment(self, film: Film, rng: np.random.Generator) -> int | None:
        """Once something has left, a sequence holds for one moment only: one is drawn."""
        most = StreamingVLM(fps=film.fps).windows.text_rounds
        seconds = 2 / film.fps
        return int(rng.integers(most, film.num_pairs) * seconds) if film.num_pairs > most else None

    def read(self, film: Film, lines: Sequence[str], asked: Sequence[Asked]) -> Reading:
        """The rounds with their ``lines``, and questions on the way, or at the end where something had to leave."""
        windows = StreamingVLM(fps=film.fps).windows
        num_rounds = film.num_pairs
        if num_rounds > windows.text_rounds:
            num_rounds = film.seen(asked[0].time_s)[0]
        spans, ends = self._writer.opening(""), []
        for number, patch in enumerate(film.pairs(range(num_rounds))):
            ends.append(sum(len(span.ids) for span in spans))
            spans = evicted(spans, number, windows, self.words.silence_id, False)
            is_lost = all(span.kind != QUERY for span in spans)
            spans += self._writer.shown(number, [patch], spans[-1])
            spans += self._writer.asked(number, self.query if is_lost else "")
            spans.append(self._writer.text(REPLY, number, f"{lines[number]}{ELLIPSIS}"))
            spans.append(Span(REPLY_TAIL, number, [self.words.im_end_id]))
        axes, prefix = TimeRowColumn(time_step=4 / film.fps), Strip()
        self._write(prefix, spans, axes)
        ends.append(len(prefix))
        reading = Reading(prefix, [], [ends[film.seen(one.time_s)[0]] for one in asked], list(asked))
        for one, end in zip(asked, reading.visible, strict=True):
            strip = Strip(next=float(prefix.positions[0, end - 1]) + 1)
            self._ask(strip, film, spans[-1], one, axes)
            reading.questions.append(strip)
        return reading

    def _ask(self, strip: Strip, film: Film, last: Span, one: Asked, axes: TimeRowColumn) -> None:
        pairs, half = film.seen(one.time_s)
        pieces = self.unseen(film, (), half)
        spans = self._writer.shown(pairs, [patch for _, patch in pieces], last)
        spans += self._writer.asked(pairs, one.text)
        self._write(strip, spans, axes, [number for number, _ in pieces])
        self.answer(strip, one)

    def _write(
        self, strip: Strip, spans: Sequence[Span], axes: TimeRowColumn, numbers: Sequence[int] | None = None
    ) -> None:
        """``numbers``: patches of the clip, that of the round where not given."""
        for span in spans:
            if span.clip is None:
                strip.text(span.ids, says=span.kind in (REPLY, REPLY_TAIL))
            else:
                strip.clip(self.words.video_id, [span.round] if numbers is None else numbers, span.clip, axes)


LAYOUTS = {"livecc": LiveCCLayout, "streamingvlm": StreamingVLMLayout}

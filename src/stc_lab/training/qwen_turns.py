"""Streams as LiveCC and StreamingVLM read them: turns with clips, replies and questions, with their positions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from torch import Tensor

from stc_lab.language.chat import (
    ASSISTANT,
    CLOSE,
    ELLIPSIS,
    IM_END,
    SYSTEM,
    USER,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
    time_text,
)
from stc_lab.language.sequence import Clip, Cursor, TimeRowColumn
from stc_lab.memories.streamingvlm import QUERY, REPLY, REPLY_TAIL, Span, StreamingVLM, TurnWriter, evicted
from stc_lab.training.models.qwen_vl import pocket_tokenizer
from stc_lab.types import VisualTokens

GRID = (14, 14)
TEXT = -1
"""Number of the patch of a token that is text."""


class Vocabulary:
    """Token ids of the pocket tokenizer, remembered: training asks for the same few texts again and again."""

    def __init__(self) -> None:
        self.tokenizer = pocket_tokenizer()
        self._ids = cache(lambda text: tuple(self.tokenizer(text, add_special_tokens=False).input_ids))
        self.video_id, self.im_end_id, self.pad_id = (
            self.tokenizer.convert_tokens_to_ids(token) for token in (VIDEO_PAD, IM_END, self.tokenizer.pad_token)
        )
        self.silence_id = self.token_ids(ELLIPSIS)[-1]

    def token_ids(self, text: str) -> list[int]:
        """Ids of ``text`` as it stands."""
        return list(self._ids(text))


@dataclass
class TokenSequence:
    """Tokens in reading order: ``ids``, ``says`` (the model says this one), ``patches`` and ``cells`` of visual tokens,
    ``positions`` [3, T] in parts. ``next``: where the next token stands."""

    next: float = 0.0
    ids: list[int] = field(default_factory=list)
    says: list[bool] = field(default_factory=list)
    patches: list[int] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)
    parts: list[Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def text(self, ids: Sequence[int], says: bool = False) -> None:
        """Append text."""
        placed, cursor = TimeRowColumn().text(Cursor(self.next), len(ids))
        self.next = cursor.position
        self._add(ids, says, [TEXT] * len(ids), [0] * len(ids), placed)

    def clip(self, video_id: int, numbers: Sequence[int], clip: Clip, axes: TimeRowColumn) -> None:
        """Append the clip of the patches ``numbers``."""
        placed, cursor = axes.clip(Cursor(self.next), clip)
        self.next = cursor.position
        patches = [n for n, frame in zip(numbers, clip.frames, strict=True) for _ in range(frame.num_tokens)]
        cells = torch.cat([frame.positions for frame in clip.frames]).tolist()
        self._add([video_id] * len(cells), False, patches, cells, placed)

    @property
    def positions(self) -> Tensor:
        """Positions [3, T]."""
        return torch.cat(self.parts, dim=1) if self.parts else torch.zeros(3, 0, dtype=torch.double)

    def _add(self, ids: Sequence[int], says: bool, patches: list[int], cells: list[int], placed: Tensor) -> None:
        self.ids += ids
        self.says += [says] * len(ids)
        self.patches += patches
        self.cells += cells
        self.parts.append(placed)


@dataclass(frozen=True)
class PatchStream:
    """A stream at ``fps`` frames a second as patches: ``cells`` int [P, B] that are kept of each.

    Whole pairs come first, then the frames that waited for a partner when a question came: ``halves`` maps the number
    of such a frame to that of its patch.
    """

    fps: float
    num_pairs: int
    cells: Tensor
    halves: dict[int, int]

    def patch(self, number: int, start_frame: int) -> VisualTokens:
        """Patch ``number``, which begins with frame ``start_frame``, without its embeddings."""
        kept = self.cells[number]
        span_s = start_frame / self.fps, (start_frame + 2) / self.fps
        return VisualTokens(torch.empty(len(kept), 0), kept, GRID, 0.0, start_s=span_s[0], stop_s=span_s[1])

    def pairs(self, numbers: Iterable[int]) -> list[VisualTokens]:
        """Whole pairs."""
        return [self.patch(number, 2 * number) for number in numbers]

    def seen(self, time_s: float) -> tuple[int, int | None]:
        """Whole pairs that are complete at ``time_s``, and the frame that waits for its partner, if any."""
        frames = max(0, math.floor(time_s * self.fps + 1e-6) + 1)
        return frames // 2, frames - 1 if frames % 2 else None


@dataclass(frozen=True)
class AskedQuestion:
    """A question as the model reads it: ``text`` with its options, ``start`` of the answer, ``letter``, ``word`` that
    answers at the question mark; ``time_s``."""

    time_s: float
    text: str
    start: str
    letter: str
    word: str


@dataclass
class TurnSequence:
    """One sequence and questions about it: question ``i`` sees the first ``visible[i]`` tokens of ``prefix``."""

    prefix: TokenSequence
    questions: list[TokenSequence]
    visible: list[int]
    asked: list[AskedQuestion]


class TurnLayout:
    """What LiveCC and StreamingVLM share: a turn of the user, then a reply that ends with `` ...``."""

    def __init__(self, words: Vocabulary) -> None:
        self.words = words

    def reply(self, sequence: TokenSequence, line: str) -> None:
        """What is said about a turn; the end token is written with what follows."""
        sequence.text(self.words.token_ids(f"{line}{ELLIPSIS}"), says=True)

    def close(self, sequence: TokenSequence) -> None:
        """The end of a reply."""
        sequence.text(self.words.token_ids(CLOSE), says=True)

    def turn(
        self,
        sequence: TokenSequence,
        before: str,
        pieces: list[tuple[int, VisualTokens]],
        text: str,
        axes: TimeRowColumn,
    ) -> None:
        """A turn with a clip of numbered patches (if any), up to where the model speaks."""
        ids = self.words.token_ids
        sequence.text(ids(before + USER))
        if pieces:
            numbers, patches = zip(*pieces, strict=True)
            sequence.text(ids(time_text(patches[0].start_s, patches[-1].stop_s) + VISION_START))
            sequence.clip(self.words.video_id, numbers, Clip(tuple(patches)), axes)
            sequence.text(ids(VISION_END))
        sequence.text(ids(f"{text}{CLOSE}{ASSISTANT}"))

    def answer(self, sequence: TokenSequence, asked: AskedQuestion) -> None:
        """What stands behind a question."""
        sequence.text(self.words.token_ids(asked.start))
        sequence.text(self.words.token_ids(f"{asked.letter}{IM_END}"), says=True)

    def unseen(self, stream: PatchStream, waiting: Iterable[int], half: int | None) -> list[tuple[int, VisualTokens]]:
        """Pairs that wait for a turn, and the frame that waits for a partner, shown twice."""
        pieces = list(zip(waiting, stream.pairs(waiting), strict=True))
        return pieces if half is None else [*pieces, (stream.halves[half], stream.patch(stream.halves[half], half))]


class LiveCCLayout(TurnLayout):
    """Three patches in the first turn, placed on three axes; one in the others, placed on one."""

    first_turn = 3
    query = "Please describe the video."

    def turns(self, num_pairs: int) -> list[list[int]]:
        """Patches of the complete turns."""
        if num_pairs < self.first_turn:
            return []
        return [list(range(self.first_turn)), *([n] for n in range(self.first_turn, num_pairs))]

    def read(self, stream: PatchStream, lines: Sequence[str], asked: Sequence[AskedQuestion]) -> TurnSequence:
        """The conversation with ``lines`` said after its turns, and questions on the way."""
        prefix, ends = TokenSequence(), [0]
        for index, numbers in enumerate(self.turns(stream.num_pairs)):
            if index:
                self.close(prefix)
            pieces = list(zip(numbers, stream.pairs(numbers), strict=True))
            before, query = ("", "") if index else (SYSTEM, self.query)
            self.turn(prefix, before, pieces, query, TimeRowColumn(is_flat=index > 0))
            self.reply(prefix, lines[index])
            ends.append(len(prefix))
        reading = TurnSequence(prefix, [], [], list(asked))
        # Where the last token before each question stands: the question goes on behind it.
        at = [0.0, *prefix.positions[0, [end - 1 for end in ends[1:]]].tolist()]
        for one in asked:
            pairs, half = stream.seen(one.time_s)
            done = len(self.turns(pairs))
            # Before the first turn its patches still wait, and are shown with the question.
            pieces = self.unseen(stream, range(0 if done else pairs), half)
            sequence = TokenSequence(next=at[done] + 1 if done else 0.0)
            self.turn(sequence, CLOSE if done else SYSTEM, pieces, one.text, TimeRowColumn(is_flat=done > 0))
            self.answer(sequence, one)
            reading.questions.append(sequence)
            reading.visible.append(ends[done])
        return reading

    def moment(self, stream: PatchStream, rng: np.random.Generator) -> int | None:
        """The second at which all questions have to be asked; ``None``: any."""
        return None


class StreamingVLMLayout(TurnLayout):
    """A round for each patch on three axes; what the session's own eviction leaves of a long stream, placed again.

    Keys and values of what is left are computed again here; a session keeps those computed before others left.
    """

    query = StreamingVLM.query

    def __init__(self, words: Vocabulary) -> None:
        super().__init__(words)
        self._writer = TurnWriter(words.token_ids, words.video_id)

    def turns(self, num_pairs: int) -> list[list[int]]:
        """Patches of the rounds."""
        return [[number] for number in range(num_pairs)]

    def moment(self, stream: PatchStream, rng: np.random.Generator) -> int | None:
        """Once something has left, a sequence holds for one moment only: one is drawn."""
        most = StreamingVLM(fps=stream.fps).windows.text_rounds
        seconds = 2 / stream.fps
        return int(rng.integers(most, stream.num_pairs) * seconds) if stream.num_pairs > most else None

    def read(self, stream: PatchStream, lines: Sequence[str], asked: Sequence[AskedQuestion]) -> TurnSequence:
        """The rounds with their ``lines``, and questions on the way, or at the end where something had to leave."""
        windows = StreamingVLM(fps=stream.fps).windows
        num_rounds = stream.num_pairs
        if num_rounds > windows.text_rounds:
            num_rounds = stream.seen(asked[0].time_s)[0]
        spans, ends = self._writer.opening(""), []
        for number, patch in enumerate(stream.pairs(range(num_rounds))):
            ends.append(sum(len(span.ids) for span in spans))
            # As a session does before every round: the oldest rounds leave, then the patch is shown.
            spans = evicted(spans, number, windows, self.words.silence_id, False)
            is_lost = all(span.kind != QUERY for span in spans)
            spans += self._writer.shown(number, [patch], spans[-1])
            spans += self._writer.asked(number, self.query if is_lost else "")
            spans.append(self._writer.text(REPLY, number, f"{lines[number]}{ELLIPSIS}"))
            spans.append(Span(REPLY_TAIL, number, [self.words.im_end_id]))
        # What is left is placed without gaps.
        axes, prefix = TimeRowColumn(time_step=4 / stream.fps), TokenSequence()
        self._write(prefix, spans, axes)
        ends.append(len(prefix))
        reading = TurnSequence(prefix, [], [ends[stream.seen(one.time_s)[0]] for one in asked], list(asked))
        for one, end in zip(asked, reading.visible, strict=True):
            sequence = TokenSequence(next=float(prefix.positions[0, end - 1]) + 1)
            self._ask(sequence, stream, spans[-1], one, axes)
            reading.questions.append(sequence)
        return reading

    def _ask(
        self, sequence: TokenSequence, stream: PatchStream, last: Span, one: AskedQuestion, axes: TimeRowColumn
    ) -> None:
        pairs, half = stream.seen(one.time_s)
        pieces = self.unseen(stream, (), half)
        spans = self._writer.shown(pairs, [patch for _, patch in pieces], last)
        spans += self._writer.asked(pairs, one.text)
        self._write(sequence, spans, axes, [number for number, _ in pieces])
        self.answer(sequence, one)

    def _write(
        self, sequence: TokenSequence, spans: Sequence[Span], axes: TimeRowColumn, numbers: Sequence[int] | None = None
    ) -> None:
        """``numbers``: patches of the clip, that of the round where not given."""
        for span in spans:
            if span.clip is None:
                sequence.text(span.ids, says=span.kind in (REPLY, REPLY_TAIL))
            else:
                sequence.clip(self.words.video_id, [span.round] if numbers is None else numbers, span.clip, axes)


LAYOUTS = {"livecc": LiveCCLayout, "streamingvlm": StreamingVLMLayout}

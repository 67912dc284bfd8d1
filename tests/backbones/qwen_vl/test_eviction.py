"""What leaves the cache of StreamingVLM, on token lists alone."""

from __future__ import annotations

import pytest

from stc_lab.memories.streamingvlm import START, Span, StreamingVLM, Windows, evicted

SILENCE = 9


def sequence(replies: list[list[int]], previous: list[int], query_round: int = 0) -> list[Span]:
    """Numbered spans of rounds with those answers; tokens of round r are 100 r + something."""
    spans = [Span("system", START, [1]), Span("previous.head", START, [2]), Span("previous.text", START, previous)]
    spans.append(Span("previous.tail", START, [3]))
    for number, reply in enumerate(replies):
        base = 100 * (number + 1)
        kinds = [("user.head", [base]), ("user.time", [base + 1]), ("user.clip", [base + 2, base + 3])]
        kinds += [("user.query", [50])] if number == query_round else []
        kinds += [("user.tail", [base + 4]), ("reply.head", [base + 5])]
        kinds += [("reply.text", reply), ("reply.tail", [base + 6])]
        spans += [Span(kind, number, ids) for kind, ids in kinds]
    first = 0
    for span in spans:
        span.first = first
        first += len(span.ids)
    return spans


def left(
    spans: list[Span], text: int, vision: int, quirks: bool = False, sink: int = 99, window: int = 99
) -> list[int]:
    """Tokens that stay, with windows of ``text`` and ``vision`` rounds."""
    rounds = 1 + max(span.round for span in spans)
    windows = Windows(text, vision, sink, window, 1)
    original = [token for span in spans for token in span.ids]
    kept = evicted(spans, rounds, windows, SILENCE, quirks)
    tokens = [token for span in kept for token in span.ids]
    moved = [original[span.first + offset] for span in kept for offset in range(len(span.ids))]
    assert moved == tokens  # every span still knows where its tokens are
    return tokens


REPLIES = [[10, 11, SILENCE], [20, 21], [30]]


def test_nothing_leaves_inside_the_windows() -> None:
    spans = sequence(REPLIES, [5])
    assert left(spans, 4, 4) == [token for span in spans for token in span.ids]


def test_the_oldest_answer_moves_and_its_round_goes() -> None:
    tokens = left(sequence(REPLIES, [5]), 3, 3)
    assert tokens[:7] == [1, 2, 5, 10, 11, 3, 200]
    assert 100 not in tokens and 106 not in tokens


def test_the_query_stays_with_the_oldest_round_that_is_left() -> None:
    spans = sequence(REPLIES, [5])
    assert left(spans, 3, 3)[6:12] == [200, 201, 202, 203, 50, 204]
    assert 50 not in left(spans, 3, 3, quirks=True)
    newer = sequence(REPLIES, [5], query_round=1)
    assert left(newer, 3, 3).count(50) == 1


def test_vision_leaves_before_text_or_after_it() -> None:
    tokens = left(sequence(REPLIES, [5]), 3, 2)
    assert {202, 203}.isdisjoint(tokens) and {201, 204, 302, 303} <= set(tokens)
    tokens = left(sequence(REPLIES, [5]), 2, 3)
    assert {201, 205}.isdisjoint(tokens) and {202, 203, 204, 20, 21} <= set(tokens) and 101 not in tokens


@pytest.mark.parametrize(
    ("reply", "quirks", "expected"),
    [
        ([10, 11], False, [5, 10, 11]),
        ([10, 11], True, [5, 10]),
        ([10], False, [5, 10]),
        ([10], True, [5]),
        ([SILENCE], False, [5]),
        ([], False, [5]),
    ],
)
def test_only_the_ellipsis_is_cut(reply: list[int], quirks: bool, expected: list[int]) -> None:
    tokens = left(sequence([reply], [5]), 1, 1, quirks)
    assert tokens[2 : tokens.index(3)] == expected


@pytest.mark.parametrize(
    ("length", "quirks", "kept"), [(5, False, 5), (6, False, 5), (4, True, 4), (5, True, 4), (9, True, 4)]
)
def test_previous_text_keeps_sink_and_window(length: int, quirks: bool, kept: int) -> None:
    previous = list(range(20, 20 + length))
    tokens = left(sequence([[10]], previous), 9, 9, quirks, sink=2, window=3)
    text = tokens[2 : tokens.index(3)]
    tail = kept - 2 if kept < length else None
    assert text == (previous if tail is None else [*previous[:2], *previous[-tail:]])


def test_previous_text_is_trimmed_across_answers() -> None:
    tokens = left(sequence([[10, 11, 12, 13]], [5, 6]), 1, 1, sink=3, window=2)
    assert tokens[2 : tokens.index(3)] == [5, 6, 10, 12, 13]


def test_seconds_become_rounds() -> None:
    def rounds(**settings) -> tuple[int, int, int]:
        windows = StreamingVLM(**settings).windows
        return windows.text_rounds, windows.vision_rounds, windows.patches_per_round

    assert rounds() == (16, 16, 1)
    assert rounds(fps=1.0) == (8, 8, 1)
    assert rounds(fps=4.0, vision_window_s=8) == (16, 8, 2)
    assert rounds(round_s=2, text_window_s=5) == (3, 8, 2)
    assert rounds(round_s=2, text_window_s=5, upstream_quirks=True) == (5, 16, 2)

"""Pieces with places of their own, marks, extras of layers, and queries that belong to no pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stc_lab.language import TextDecoder
from stc_lab.language.caches.base import Placed
from stc_lab.language.caches.growing import GrowingStore
from stc_lab.language.caches.rekv import ReKVStore
from stc_lab.language.sequence import Clip, Cursor, Text, TimeRowColumn, sequence
from stc_lab.types import VisualTokens

NewMemory = Callable[..., ReKVStore]
QUESTION = [5, 6, 7]


def answer_states(decoder: TextDecoder, memory: ReKVStore) -> Tensor:
    view = memory.retrieve()
    decoder(decoder.embed(QUESTION), view)
    view.drop_question()
    return decoder(decoder.embed([1, 2, 3, 4]), view)


def test_places_side_by_side_change_nothing(decoder: TextDecoder, frames: Tensor, new_memory: NewMemory) -> None:
    plain, placed = new_memory(), new_memory()
    for frame in frames[:12]:
        place = Placed(torch.arange(len(frame), dtype=torch.double), float(len(frame)))
        states = decoder(frame, plain)
        torch.testing.assert_close(decoder(frame, placed, places=[place]), states, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(answer_states(decoder, placed), answer_states(decoder, plain), atol=1e-5, rtol=1e-5)


def test_a_block_takes_its_places_along_when_it_is_retrieved(
    decoder: TextDecoder, frames: Tensor, new_memory: NewMemory
) -> None:
    memory = new_memory(n_local=400, topk=2)
    offsets = torch.tensor([0, 0, 1, 1, 2, 2, 5, 5], dtype=torch.double)
    for frame in frames[:6]:
        decoder(frame, memory, places=[Placed(offsets, 7.0)])
    view = memory.retrieve([1, 4])
    decoder(decoder.embed(QUESTION), view)
    # Init at 0 to 4, the first block from 5 on, the second 7 further, the question another 7 further.
    positions = torch.cat((torch.arange(5).double(), offsets + 5, offsets + 12))
    keys = torch.cat((view._sources[0].init_keys, *(memory.layers[0].pool.gather([i])[0] for i in (1, 4))), dim=1)
    rotation = decoder.shape.rotary(positions, keys.dtype)
    expected = rotation(keys.transpose(0, 1)).transpose(0, 1)
    torch.testing.assert_close(view._layers[0].keys.all[:, : keys.shape[1]], expected)
    assert view._next_positions[0] == 19 + len(QUESTION)
    assert view.visual_lengths == [16] * decoder.shape.num_layers


@pytest.mark.parametrize("num_before", [2, 9, 15])
def test_what_was_marked_and_rewound_leaves_no_trace(
    decoder: TextDecoder, frames: Tensor, new_memory: NewMemory, num_before: int
) -> None:
    memory, plain = new_memory(), new_memory()
    for index, frame in enumerate(frames):
        if index >= num_before and index % 2:
            mark = memory.mark()
            decoder(torch.cat(list(frames[:5])), memory, lengths=[8] * 5)
            decoder(frames[7], memory)
            assert memory.num_blocks == plain.num_blocks + 6
            memory.rewind(mark)
        assert torch.equal(decoder(frame, memory), decoder(frame, plain))
        assert memory.device_bytes == plain.device_bytes and memory.host_bytes == plain.host_bytes
    assert torch.equal(answer_states(decoder, memory), answer_states(decoder, plain))


def test_a_growing_store_can_be_rewound(decoder: TextDecoder) -> None:
    store, plain = GrowingStore(decoder.shape), GrowingStore(decoder.shape)
    for one in (store, plain):
        decoder(decoder.embed([1, 2, 3]), one)
    mark = store.mark()
    decoder(decoder.embed([4, 5]), store)
    store.rewind(mark)
    assert torch.equal(decoder(decoder.embed([6]), store), decoder(decoder.embed([6]), plain))


def test_extras_of_layers_reach_the_visual_tokens_after_their_layer(decoder: TextDecoder, frames: Tensor) -> None:
    visual, extras = torch.tensor([1, 4]), torch.randn(2, 2, frames.shape[-1])
    hidden = decoder(frames[0], GrowingStore(decoder.shape), per_layer=extras, visual=visual)
    expected, store = frames[0], GrowingStore(decoder.shape)
    from stc_lab.language.caches.base import Step

    store.begin(Step((len(expected),)))
    for index, layer in enumerate(decoder._model.layers):
        expected = expected + decoder._attention(index, layer, expected, store)
        expected = expected + layer.mlp(layer.post_attention_layernorm(expected))
        if index < 2:
            expected = expected.clone()
            expected[visual] += extras[index]
    torch.testing.assert_close(hidden, decoder._model.norm(expected))


def test_queries_of_no_pass_are_those_of_a_pass(decoder: TextDecoder, frames: Tensor) -> None:
    seen = []

    class Spy(GrowingStore):
        def attend(self, layer, queries, keys, values):
            seen.append(queries)
            return super().attend(layer, queries, keys, values)

    decoder(frames[0], Spy(decoder.shape))
    assert torch.equal(decoder.queries(0, frames[0]), seen[0])


def frame(num_tokens: int, grid: tuple[int, int], kept: list[int] | None = None, extras: int = 0) -> VisualTokens:
    per_layer = torch.randn(extras, num_tokens, 4) if extras else None
    full = VisualTokens.full(torch.randn(num_tokens, 4), grid, 0.0, per_layer=per_layer)
    return full if kept is None else full.keep(torch.tensor(kept))


def test_a_sequence_places_text_and_clips_on_three_axes() -> None:
    """The toy model of two layers of extras: whatever is dropped or merged, extras stay with their tokens."""
    embed = lambda ids: torch.zeros(len(ids), 4)  # noqa: E731
    first, second = frame(6, (2, 3), [0, 4, 5], extras=2), frame(6, (2, 3), extras=2)
    segments = [Text("ab"), Text("c"), Clip((first,)), Clip((second,), continues=True), Text("d")]
    made = sequence(segments, embed, lambda text: list(map(ord, text)), axes=TimeRowColumn())
    assert made.ids[:3] == [97, 98, 99] and len(made) == 3 + 3 + 6 + 1
    times, rows, columns = made.positions.tolist()
    assert times[:3] == [0, 1, 2] and times[3:6] == [3, 3, 3] and times[6:12] == [4] * 6
    assert rows[3:6] == [3, 4, 4] and columns[3:6] == [3, 4, 5]
    assert times[-1] == rows[-1] == columns[-1] == 6  # behind the furthest column of the full clip
    assert made.visual.tolist() == list(range(3, 12))
    assert torch.equal(made.per_layer, torch.cat((first.per_layer, second.per_layer), dim=1))


def test_continued_clips_stand_as_one_clip() -> None:
    axes, frames = TimeRowColumn(time_step=2.0), [frame(6, (2, 3)) for _ in range(4)]
    whole, after = axes.clip(Cursor(5.0), Clip(tuple(frames)))
    cursor, parts = Cursor(5.0), []
    for index, one in enumerate(frames):
        placed, cursor = axes.clip(cursor, Clip((one,), continues=index > 0))
        parts.append(placed)
    assert torch.equal(torch.cat(parts, dim=1), whole) and cursor == after


def test_merging_moves_everything_together() -> None:
    tokens = frame(6, (2, 3), extras=2)
    merged = tokens.merge(torch.tensor([0, 0, 1, 1, 1, 2]))
    assert merged.num_tokens == 3 and merged.sizes.tolist() == [2, 3, 1]
    torch.testing.assert_close(merged.tokens[1], tokens.tokens[2:5].mean(0))
    torch.testing.assert_close(merged.per_layer[:, 0], tokens.per_layer[:, :2].mean(1))
    assert merged.positions.tolist() == [0, 2, 5]
    again = merged.merge(torch.tensor([0, 0, 1]))  # by default a token weighs what it stands for
    torch.testing.assert_close(again.tokens[0], tokens.tokens[:5].mean(0))
    both = VisualTokens.cat([tokens.keep(torch.tensor([1])), tokens.keep(torch.tensor([3, 5]))])
    assert both.positions.tolist() == [1, 3, 5] and torch.equal(both.per_layer, tokens.per_layer[:, [1, 3, 5]])

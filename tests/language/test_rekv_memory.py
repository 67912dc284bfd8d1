"""Meaning of the block memory: what a frame and a question see, whatever the sizes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import Qwen2ForCausalLM

from stc_lab.language import TextDecoder
from stc_lab.language.caches.growing import GrowingStore
from stc_lab.language.caches.rekv import ReKVStore
from stc_lab.language.caches.retrieval import ReKVSettings
from stc_lab.language.caches.windowed import ChunkPlanner

NewMemory = Callable[..., ReKVStore]
INIT, QUESTION, PROMPT = [7, 8, 9, 10, 11], [20, 21, 22], [30, 31, 32, 33]
CLOSE = {"atol": 3e-5, "rtol": 1e-5}


def stream(decoder: TextDecoder, memory: ReKVStore, frames: Tensor, per_pass: int = 1) -> Tensor:
    """Hidden states of all frame tokens."""
    return torch.cat(
        [decoder(part.flatten(0, 1), memory, lengths=[part.shape[1]] * len(part)) for part in frames.split(per_pass)]
    )


def ask(decoder: TextDecoder, memory: ReKVStore, indices: list[int] | None = None) -> Tensor:
    """Logits of the prompt tokens."""
    store = memory.retrieve(indices)
    decoder(decoder.embed(QUESTION), store)
    store.drop_question()
    return decoder.logits(decoder(decoder.embed(PROMPT), store))


@pytest.mark.parametrize("per_pass", [1, 3, 20])
def test_unlimited_window_is_the_one_shot_model(
    model: Qwen2ForCausalLM, decoder: TextDecoder, frames: Tensor, new_memory: NewMemory, per_pass: int
) -> None:
    hidden = stream(decoder, new_memory(n_local=10**9), frames, per_pass)
    embeds = torch.cat((decoder.embed(INIT), frames.flatten(0, 1)))
    expected = model.model(inputs_embeds=embeds[None]).last_hidden_state[0, len(INIT) :]
    torch.testing.assert_close(hidden, expected, **CLOSE)


@pytest.mark.parametrize("quirks", [False, True])
def test_several_frames_in_one_pass_equal_one_by_one(
    decoder: TextDecoder, frames: Tensor, new_memory: NewMemory, quirks: bool
) -> None:
    one, many = new_memory(upstream_quirks=quirks), new_memory(upstream_quirks=quirks)
    torch.testing.assert_close(stream(decoder, many, frames, 7), stream(decoder, one, frames), **CLOSE)
    torch.testing.assert_close(ask(decoder, many), ask(decoder, one), **CLOSE)


def test_all_blocks_retrieved_is_full_attention_at_contiguous_positions(
    decoder: TextDecoder, frames: Tensor, new_memory: NewMemory
) -> None:
    """Keys and values of the stream, the prompt behind them: what a growing store with the same keys computes."""
    memory = new_memory(n_local=10**9, topk=20)
    stream(decoder, memory, frames)
    growing = GrowingStore(decoder.shape)
    decoder(torch.cat((decoder.embed(INIT), frames.flatten(0, 1))), growing)
    expected = decoder.logits(decoder(decoder.embed(PROMPT), growing))
    torch.testing.assert_close(ask(decoder, memory), expected, **CLOSE)


@pytest.mark.parametrize("indices", [None, [2, 3, 17]])
def test_a_question_leaves_the_stream_as_it_was(
    decoder: TextDecoder, frames: Tensor, new_memory: NewMemory, indices: list[int] | None
) -> None:
    asked, quiet = new_memory(), new_memory()
    for memory in (asked, quiet):
        stream(decoder, memory, frames[:18])
    first = ask(decoder, asked, indices)
    assert torch.equal(first, ask(decoder, asked, indices))
    assert torch.equal(stream(decoder, asked, frames[18:]), stream(decoder, quiet, frames[18:]))
    assert asked.device_bytes == quiet.device_bytes and asked.num_blocks == 20


def test_offloaded_blocks_answer_the_same(decoder: TextDecoder, frames: Tensor, new_memory: NewMemory) -> None:
    memories = [new_memory(offload=offload, max_cached_blocks=cached) for offload, cached in ((False, 0), (True, 2))]
    for memory in memories:
        stream(decoder, memory, frames)
    assert torch.equal(ask(decoder, memories[0]), ask(decoder, memories[1]))


def test_questions_before_any_frame_and_before_the_window_is_full(
    decoder: TextDecoder, frames: Tensor, new_memory: NewMemory
) -> None:
    memory = new_memory()
    assert ask(decoder, memory).isfinite().all()
    for frame in frames[:6]:
        stream(decoder, memory, frame[None])
        assert ask(decoder, memory).isfinite().all()


def test_nothing_can_be_retrieved_before_the_init_prompt(decoder: TextDecoder) -> None:
    memory = ReKVStore(decoder.shape, ReKVSettings(), decoder.device)
    with pytest.raises(ValueError, match="the init prompt comes first"):
        memory.retrieve()
    with pytest.raises(ValueError, match="first pass is the init prompt"):
        decoder(decoder.embed([1, 2, 3]), memory, lengths=[1, 2])
    with pytest.raises(ValueError, match="positions cannot be given"):
        decoder(decoder.embed([1]), memory, positions=torch.tensor([4]))


@pytest.mark.parametrize("lengths", [(8,) * 12, (3, 1, 7, 2, 40, 5, 1, 9, 12, 6)], ids=["fixed", "variable"])
@pytest.mark.parametrize("n_local", [6, 9, 23])
@pytest.mark.parametrize("split_above", [0, 4096], ids=["split", "masked"])
def test_every_token_is_seen_exactly_once(
    monkeypatch: pytest.MonkeyPatch, decoder: TextDecoder, split_above: int, n_local: int, lengths: tuple[int, ...]
) -> None:
    """Against a plain loop: first layer, any window, also where the init tokens leave it in the middle of a frame."""
    monkeypatch.setattr(ChunkPlanner.__init__, "__defaults__", (split_above,))
    frames = torch.randn(sum(lengths), decoder.sizes.hidden_size, generator=torch.Generator().manual_seed(2))
    memory = ReKVStore(decoder.shape, ReKVSettings(n_local=n_local, topk=3), decoder.device)
    spy = FirstLayer(memory)
    decoder(decoder.embed(INIT), spy)
    for part in frames.split(list(lengths)):
        decoder(part, spy)
    torch.testing.assert_close(torch.cat(spy.outputs), plain_attention(spy, decoder, n_local), **CLOSE)


class FirstLayer:
    """Store that notes what the first layer asks and gets."""

    def __init__(self, store: ReKVStore) -> None:
        self.store = store
        self.queries, self.keys, self.values, self.outputs = [], [], [], []

    def begin(self, step) -> None:
        self.store.begin(step)

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        out = self.store.attend(layer, queries, keys, values)
        if layer == 0:
            for kept, value in zip(
                (self.queries, self.keys, self.values, self.outputs), (queries, keys, values, out), strict=True
            ):
                kept.append(value)
        return out


def plain_attention(spy: FirstLayer, decoder: TextDecoder, n_local: int) -> Tensor:
    shape = decoder.shape
    queries, keys, values = (torch.cat(part) for part in (spy.queries, spy.keys, spy.values))
    repeat = shape.num_heads // shape.num_kv_heads
    keys, values = keys.repeat_interleave(repeat, 1), values.repeat_interleave(repeat, 1)
    rotate = shape.rotary.span(0, len(queries), queries)
    near = torch.einsum("thd,shd->hts", rotate(queries), rotate(keys))
    constant = shape.rotary.span(n_local - 1, n_local, queries)
    far = torch.einsum("thd,shd->hts", constant(queries), keys[: len(INIT)])
    distance = torch.arange(len(queries))[:, None] - torch.arange(len(queries))
    near = near.masked_fill((distance < 0) | (distance >= n_local), -torch.inf)
    far = far.masked_fill(distance[:, : len(INIT)] < n_local, -torch.inf)
    weights = (torch.cat((near, far), dim=-1) * shape.scale).softmax(-1)
    return torch.einsum("hts,shd->thd", weights, torch.cat((values, values[: len(INIT)]))).flatten(1)


def test_two_streams_do_not_touch_each_other(decoder: TextDecoder, frames: Tensor, new_memory: NewMemory) -> None:
    alone, first, second = new_memory(), new_memory(), new_memory()
    expected = stream(decoder, alone, frames)
    outputs = []
    for index, frame in enumerate(frames):
        outputs.append(stream(decoder, first, frame[None]))
        stream(decoder, second, -frame[None])
        if index % 6 == 5:
            ask(decoder, second)
    assert torch.equal(torch.cat(outputs), expected)
    assert torch.equal(ask(decoder, first), ask(decoder, alone))


def test_bytes_follow_the_formula(decoder: TextDecoder, frames: Tensor, new_memory: NewMemory) -> None:
    """Window: keys and values; init: both, and the keys turned to the far end; a float32 key per block; blocks."""
    memory = new_memory(offload=True)
    token_bytes = decoder.shape.num_kv_heads * decoder.shape.head_dim * 4
    for count in range(1, 21):
        stream(decoder, memory, frames[count - 1 : count])
        total = len(INIT) + 8 * count
        is_offloaded = total - 40 >= len(INIT)
        blocks = 2 * 8 * count * token_bytes
        window = (2 * min(total, 40) + 3 * len(INIT) + count) * token_bytes
        assert memory.host_bytes == decoder.shape.num_layers * (blocks if is_offloaded else 0)
        assert memory.device_bytes == decoder.shape.num_layers * (window + (0 if is_offloaded else blocks))


def test_a_long_answer_sees_init_and_the_last_tokens(
    decoder: TextDecoder, frames: Tensor, new_memory: NewMemory
) -> None:
    memory = new_memory()
    stream(decoder, memory, frames)
    store = memory.retrieve()
    decoder(decoder.embed(QUESTION), store)
    store.drop_question()
    for token in range(60):
        assert decoder(decoder.embed([token]), store).isfinite().all()
    sliding = store._layers[-1]
    assert len(sliding.keys.last(40)[0]) == 40 and sliding.init_keys.shape[1] == len(INIT)
    assert all(len(layer.keys) <= 40 + 40 // 4 + 40 for layer in store._layers)

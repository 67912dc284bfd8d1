"""The own decoder loop on a growing store is the Hugging Face model."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from stc_lab.language import TextDecoder
from stc_lab.language.caches.growing import GrowingStore

IDS = torch.tensor([3, 17, 99, 4, 56, 23, 8, 8, 101, 77, 12, 64, 5])


def expected_logits(model: Qwen2ForCausalLM, ids: Tensor = IDS, positions: Tensor | None = None) -> Tensor:
    positions = None if positions is None else positions[None]
    return model(input_ids=ids[None], position_ids=positions).logits[0]


@pytest.mark.parametrize("pieces", [(13,), (1,) * 13, (6, 1, 1, 5)])
def test_logits_equal_the_hf_model(model: Qwen2ForCausalLM, decoder: TextDecoder, pieces: tuple[int, ...]) -> None:
    store = GrowingStore(decoder.shape)
    logits = torch.cat([decoder.logits(decoder(decoder.embed(part), store)) for part in IDS.split(list(pieces))])
    torch.testing.assert_close(logits, expected_logits(model), atol=2e-5, rtol=1e-5)
    assert len(store) == len(IDS)


def test_explicit_positions(model: Qwen2ForCausalLM, decoder: TextDecoder) -> None:
    positions = torch.tensor([0, 1, 2, 3, 10, 11, 12, 20, 21, 22, 23, 24, 40])
    store = GrowingStore(decoder.shape)
    logits = decoder.logits(decoder(decoder.embed(IDS), store, positions=positions))
    torch.testing.assert_close(logits, expected_logits(model, positions=positions), atol=2e-5, rtol=1e-5)
    more = decoder.logits(decoder(decoder.embed([9]), store))
    longer = expected_logits(model, torch.cat((IDS, torch.tensor([9]))), torch.cat((positions, torch.tensor([41]))))
    torch.testing.assert_close(more, longer[-1:], atol=2e-5, rtol=1e-5)


def test_dropped_tokens_leave_no_trace(decoder: TextDecoder) -> None:
    store, clean = GrowingStore(decoder.shape), GrowingStore(decoder.shape)
    for s in (store, clean):
        decoder(decoder.embed(IDS[:6]), s)
    decoder(decoder.embed([1, 2, 3]), store)
    store.drop_last(3)
    assert torch.equal(decoder(decoder.embed(IDS[6:]), store), decoder(decoder.embed(IDS[6:]), clean))


def test_positions_far_from_the_start_lose_no_accuracy(decoder: TextDecoder) -> None:
    near = decoder(decoder.embed(IDS), GrowingStore(decoder.shape))
    positions = torch.arange(len(IDS)) + 1_000_000
    far = decoder(decoder.embed(IDS), GrowingStore(decoder.shape), positions=positions)
    torch.testing.assert_close(far, near, atol=2e-5, rtol=1e-5)


def test_greedy_equals_hf_generate(model: Qwen2ForCausalLM, decoder: TextDecoder, greedy) -> None:
    store = GrowingStore(decoder.shape)
    first = decoder.logits(decoder(decoder.embed(IDS), store)[-1])
    ids = greedy(decoder, store, first, max_new_tokens=9).ids
    expected = model.generate(
        IDS[None], attention_mask=torch.ones_like(IDS)[None], max_new_tokens=9, do_sample=False, pad_token_id=0
    )
    assert ids == expected[0, len(IDS) :].tolist()


def test_greedy_stops_before_a_stop_token(decoder: TextDecoder, greedy) -> None:
    def run(stop_ids: tuple[int, ...]) -> list[int]:
        store = GrowingStore(decoder.shape)
        first = decoder.logits(decoder(decoder.embed(IDS), store)[-1])
        return greedy(decoder, store, first, 6, stop_ids).text_ids

    free = run(())
    stop = next(token for token in free[1:] if token != free[0])
    assert run((stop,)) == free[: free.index(stop)]


def test_lengths_must_cover_the_tokens(decoder: TextDecoder) -> None:
    with pytest.raises(ValueError, match=r"lengths=\(3, 4\) do not split 13 tokens"):
        decoder(decoder.embed(IDS), GrowingStore(decoder.shape), lengths=(3, 4))


def test_positions_must_fit_the_tokens(decoder: TextDecoder) -> None:
    with pytest.raises(ValueError, match="positions has shape"):
        decoder(decoder.embed(IDS), GrowingStore(decoder.shape), positions=torch.arange(3))


def test_half_precision_keeps_exact_frequencies(model: Qwen2ForCausalLM) -> None:
    half = deepcopy(model).to(torch.bfloat16)
    decoder = TextDecoder(half.model, half.lm_head)
    exact = TextDecoder(model.model, model.lm_head).shape.rotary.span(900, 901, torch.zeros(1))
    rounded = decoder.shape.rotary.span(900, 901, torch.zeros(1))
    assert torch.equal(exact.cos, rounded.cos)
    assert decoder(decoder.embed(IDS), GrowingStore(decoder.shape)).dtype == torch.bfloat16


def test_models_with_their_own_window_are_refused() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen2Config(**sizes, vocab_size=20, use_sliding_window=True, sliding_window=8, max_window_layers=1)
    windowed = Qwen2ForCausalLM(config)
    with pytest.raises(ValueError, match="use_sliding_window=true is not supported"):
        TextDecoder(windowed.model, windowed.lm_head)

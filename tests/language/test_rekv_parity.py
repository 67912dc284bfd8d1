"""The memory against numbers of the released ReKV code (golden cases ``rekv_*`` without a vision tower)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stc_lab.language.caches.rekv import ReKVStore
from stc_lab.language.caches.retrieval import RetrievedStore

CASES = (
    "rekv_overflow",
    "rekv_short_below_topk",
    "rekv_short_above_topk",
    "rekv_partial_init",
    "rekv_chunk2",
    "rekv_external_idx",
    "rekv_long_answer",
)
TOLERANCE = {"atol": 2e-5, "rtol": 0.0}


@pytest.mark.parametrize("offload", [False, True], ids=["resident", "offloaded"])
@pytest.mark.parametrize("name", CASES)
def test_case(golden_case, name: str, offload: bool) -> None:
    case = golden_case(name)
    facts, tensors, decoder = case.facts, case.tensors, case.decoder
    memory = case.new_memory(offload=offload)
    hidden = decoder(decoder.embed(facts["init_ids"]), memory)
    torch.testing.assert_close(hidden, tensors["init.last_hidden"], **TOLERANCE)
    check_state(memory, facts["state_after_each_call"][0], facts["rekv_config"])
    fed = 0
    for number in range(facts["num_questions"]):
        fed = feed(case, memory, fed, facts[f"q{number}"]["asked_after_frames"])
        check_question(case, memory, number)
    feed(case, memory, fed, facts["num_frames"])
    for layer in range(facts["model_config"]["num_hidden_layers"]):
        expected = tensors.get(f"final.block_rep_keys.layer{layer}")
        if expected is not None:
            torch.testing.assert_close(expanded_keys(case, memory, layer), expected, **TOLERANCE)


def test_several_frames_in_one_pass(golden_case) -> None:
    case = golden_case("rekv_overflow")
    memory, tensors = case.new_memory(), case.tensors
    case.decoder(case.decoder.embed(case.facts["init_ids"]), memory)
    for frames, expected in zip(tensors["frames"].split(5), tensors["frames.last_hidden"].split(5), strict=True):
        hidden = case.decoder(frames.flatten(0, 1), memory, lengths=[frames.shape[1]] * len(frames))
        torch.testing.assert_close(hidden, expected.flatten(0, 1), **TOLERANCE)


@pytest.mark.parametrize("name", ["rekv_overflow", "rekv_partial_init"])
def test_without_quirks_only_the_overflow_differs(golden_case, name: str) -> None:
    """The released code shows the init tokens twice while they leave the window; otherwise nothing changes."""
    case = golden_case(name)
    sizes, memory = case.facts["rekv_config"], case.new_memory(upstream_quirks=False)
    case.decoder(case.decoder.embed(case.facts["init_ids"]), memory)
    for frame, expected in zip(case.tensors["frames"], case.tensors["frames.last_hidden"], strict=True):
        close = torch.allclose(case.decoder(frame, memory), expected, **TOLERANCE)
        assert close or memory.num_tokens > sizes["n_local"]
    assert not close or name == "rekv_overflow"


def feed(case, memory: ReKVStore, start: int, stop: int) -> int:
    for index in range(start, stop):
        hidden = case.decoder(case.tensors["frames"][index], memory)
        torch.testing.assert_close(hidden, case.tensors["frames.last_hidden"][index], **TOLERANCE)
        logits = case.decoder.logits(hidden[-1])
        torch.testing.assert_close(logits, case.tensors["frames.logits_last"][index], **TOLERANCE)
        if index + 1 < len(case.facts["state_after_each_call"]):
            check_state(memory, case.facts["state_after_each_call"][index + 1], case.facts["rekv_config"])
    return stop


def check_state(memory: ReKVStore, expected: dict, sizes: dict) -> None:
    """Upstream's bookkeeping of layer 0, derived from ours."""
    excess = max(0, memory.num_tokens - sizes["n_local"])
    pool = memory.layers[0].pool
    assert memory.num_tokens == expected["length"]
    assert memory.has_overflowed == expected["init_exc"]
    assert min(excess, sizes["n_init"]) == expected["init_len"]
    assert min(memory.num_tokens, sizes["n_local"]) == expected["local_len"]
    assert pool.num_offloaded == expected["num_blocks"]
    assert pool.num_offloaded + (0 if expected["num_blocks"] else memory.num_blocks) == memory.num_blocks


def check_question(case, memory: ReKVStore, number: int) -> None:
    facts, name, decoder = case.facts[f"q{number}"], f"q{number}", case.decoder
    store = memory.retrieve(facts["retrieved_block_indices"][0] if facts["external"] else None)
    hidden = decoder(decoder.embed(facts["question_ids"]), store)
    close(case, f"{name}.question_last_hidden", hidden)
    close(case, f"{name}.question_logits_last", decoder.logits(hidden[-1]))
    assert store.block_indices == facts["retrieved_block_indices"]
    check_retrieved(case, memory, store, name)
    store.drop_question()
    assert store.context_lengths == facts["retrieved_len"]
    logits = decoder.logits(decoder(decoder.embed(facts["prompt_ids"]), store))
    close(case, f"{name}.prefill_logits", logits)
    ids, decoded = [int(logits[-1].argmax())], []
    while len(ids) < len(facts["decoded_ids"]):
        decoded.append(decoder.logits(decoder(decoder.embed(ids[-1:]), store)[-1]))
        ids.append(int(decoded[-1].argmax()))
    assert ids == facts["decoded_ids"]
    close(case, f"{name}.decode_logits", torch.stack(decoded))
    # What the next token can see: all, or the init tokens and the last ones of the window.
    limit = memory.num_init + memory.settings.n_local
    assert [min(length, limit) for length in store.context_lengths] == facts["kv_len_after_decode"]


def check_retrieved(case, memory: ReKVStore, store: RetrievedStore, name: str) -> None:
    for layer, scores in enumerate(store.scores):
        expected = case.tensors.get(f"{name}.similarity.layer{layer}")
        assert (scores is None) == (expected is None)
        if expected is not None:
            close(case, f"{name}.similarity.layer{layer}", scores)
    last = memory.layers[-1]
    keys, _ = last.pool.gather(store.block_indices[-1])
    key = f"{name}.retrieved_k.layer{len(memory.layers) - 1}"
    close(case, key, torch.cat((last.sliding.init_keys, keys), dim=1))


def close(case, key: str, value: Tensor) -> None:
    torch.testing.assert_close(value, case.tensors[key], **TOLERANCE)


def expanded_keys(case, memory: ReKVStore, layer: int) -> Tensor:
    """Representative keys repeated for the query heads [N, Hq * d]."""
    shape = case.decoder.shape
    keys = memory.layers[layer].pool.representatives.view(memory.num_blocks, shape.num_kv_heads, shape.head_dim)
    return keys.repeat_interleave(shape.num_heads // shape.num_kv_heads, dim=1).flatten(1)

"""Tiny random language models."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from stc_lab.language import TextDecoder
from stc_lab.language.caches.base import KVStore
from stc_lab.language.caches.rekv import ReKVStore
from stc_lab.language.caches.retrieval import ReKVSettings
from stc_lab.language.context import Context, Generated, generate
from stc_lab.language.sequence import sequence

TINY = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 120,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}


class PlainReader:
    """What a context needs of a model, where there are only token ids."""

    def __init__(self, decoder: TextDecoder) -> None:
        self.decoder = decoder

    def sequence(self, segments, cursor=None, axes=None):
        return sequence(segments, self.decoder.embed, list, axes=axes, cursor=cursor)


@pytest.fixture(scope="session")
def greedy() -> Callable[..., Generated]:
    """``(decoder, store, logits, max_new_tokens, stop_ids)`` -> what is generated after a prompt that was read."""

    def run(
        decoder: TextDecoder, store: KVStore, logits: Tensor, max_new_tokens: int, stop_ids: tuple[int, ...] = ()
    ) -> Generated:
        return generate(Context(PlainReader(decoder), store, counts_on=True), logits, max_new_tokens, stop_ids)

    return run


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    """One thread: these matrices are too small to share, and waiting for a second one takes most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def make_model(**changes) -> Qwen2ForCausalLM:
    """Random weights large enough that attention is not flat."""
    torch.manual_seed(3)
    model = Qwen2ForCausalLM(Qwen2Config(**{**TINY, **changes})).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=2.0 * parameter.shape[1] ** -0.5)
    return model


@pytest.fixture(scope="session")
def model() -> Qwen2ForCausalLM:
    return make_model()


@pytest.fixture
def decoder(model: Qwen2ForCausalLM) -> TextDecoder:
    return TextDecoder(model.model, model.lm_head)


@pytest.fixture
def frames() -> Tensor:
    """Embeddings of 20 frames of 8 tokens [20, 8, H]."""
    return torch.randn(20, 8, TINY["hidden_size"], generator=torch.Generator().manual_seed(11))


@pytest.fixture
def new_memory(decoder: TextDecoder) -> Callable[..., ReKVStore]:
    """Memory after an init prompt of 5 tokens."""

    def make(**settings) -> ReKVStore:
        memory = ReKVStore(decoder.shape, ReKVSettings(**{"n_local": 40, "topk": 3, **settings}), decoder.device)
        decoder(decoder.embed([7, 8, 9, 10, 11]), memory)
        return memory

    return make


@dataclass
class GoldenCase:
    """One published case: facts, tensors, and a decoder with its weights."""

    facts: dict
    tensors: dict[str, Tensor]
    decoder: TextDecoder

    def new_memory(self, **changes) -> ReKVStore:
        sizes = self.facts["rekv_config"]
        settings = {
            "n_local": sizes["n_local"],
            "topk": sizes["topk"],
            "chunk_size": sizes["chunk_size"],
            "max_cached_blocks": sizes["max_cached_block"],
            "upstream_quirks": True,
            **changes,
        }
        return ReKVStore(self.decoder.shape, ReKVSettings(**settings), self.decoder.device)


@pytest.fixture
def golden_case(shared_dir: Path) -> Callable[[str], GoldenCase]:
    def load(name: str) -> GoldenCase:
        folder = shared_dir / "golden" / "backbones"
        facts = json.loads((folder / f"{name}.json").read_text())
        config = dict(facts["model_config"])
        config["rope_parameters"] = {"rope_type": "default", "rope_theta": config.pop("rope_theta")}
        model = Qwen2ForCausalLM(Qwen2Config(**config)).eval()
        model.load_state_dict(load_file(folder / "rekv_weights.safetensors"))
        return GoldenCase(facts, load_file(folder / f"{name}.safetensors"), TextDecoder(model.model, model.lm_head))

    return load

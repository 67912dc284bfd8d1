"""Formulas against torch's own counter on tiny Hugging Face models.

Eager attention: the counter does not see the fused attention kernel of the CPU.
"""

from __future__ import annotations

import pytest
import torch
from selective_flops import selective_block_flops, selective_frame_flops
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM, SiglipVisionConfig, SiglipVisionModel

from stc_lab.measure import flops
from stc_lab.vision import TowerFacts


def _count(run) -> int:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def _tower(**changes) -> TowerFacts:
    facts = {"num_tokens": 729, "num_special_tokens": 0, "hidden_size": 1152, "mlp_size": 4304, "num_layers": 27}
    unused = {"grid": (27, 27), "num_heads": 16, "image_size": 384, "patch_size": 14}
    return TowerFacts(**{**facts, **unused, **changes})


@pytest.fixture(scope="module")
def decoder() -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=37, hidden_size=24, intermediate_size=40, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, attn_implementation="eager",
    )  # fmt: skip
    return Qwen2ForCausalLM(config).eval()


def test_vision_equals_the_counter_on_siglip() -> None:
    config = SiglipVisionConfig(
        hidden_size=24, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
        image_size=12, patch_size=4, vision_use_head=False, attn_implementation="eager",
    )  # fmt: skip
    model = SiglipVisionModel(config).eval()
    tower = _tower(num_tokens=9, hidden_size=24, mlp_size=56, num_layers=2)
    counted = flops.vision_flops(tower) + flops.patch_embed_flops(9, 24, patch_size=4)
    assert counted == _count(lambda: model(torch.zeros(1, 3, 12, 12)))


def test_selective_block_equals_the_counter_on_its_matrix_products() -> None:
    tokens, selected, hidden, mlp = 30, 7, 16, 40
    x, part, up, down = torch.zeros(tokens, hidden), torch.zeros(selected, hidden), *torch.zeros(2, hidden, mlp)
    weight = nn.Linear(hidden, hidden, bias=False)

    def products() -> None:
        keys = weight(x)
        for _ in range(3):  # cosine: current with reference, and both norms
            torch.bmm(keys.unsqueeze(1), keys.unsqueeze(2))
        query, _value = weight(part), weight(part)
        weight((query @ keys.T) @ x)
        (part @ up) @ down.T

    assert selective_block_flops(tokens, selected, hidden, mlp) == _count(products)


def test_projector_equals_the_counter() -> None:
    projector = nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 40))
    assert flops.projector_flops(11, 24, 40) == _count(lambda: projector(torch.zeros(11, 24)))


def test_one_decoding_step_equals_the_counter(decoder: Qwen2ForCausalLM) -> None:
    cache = DynamicCache(config=decoder.config)
    with torch.inference_mode():
        decoder(torch.zeros(1, 12, dtype=torch.long), past_key_values=cache)
    step = _count(lambda: decoder(torch.zeros(1, 1, dtype=torch.long), past_key_values=cache))
    assert flops.decoder_flops(decoder.config, 1, 12, with_lm_head=1) == step


def test_prefill_counts_the_causal_half_that_the_counter_does_not(decoder: Qwen2ForCausalLM) -> None:
    n, width, layers = 9, 24, 3
    dense = _count(lambda: decoder(torch.zeros(1, n, dtype=torch.long), logits_to_keep=1))
    unseen_pairs = n * n - n * (n + 1) // 2
    assert flops.decoder_flops(decoder.config, n, 0, with_lm_head=1) == dense - layers * 4 * width * unseen_pairs


def test_prefill_in_pieces_costs_what_one_prefill_costs(decoder: Qwen2ForCausalLM) -> None:
    pieces = sum(flops.decoder_flops(decoder.config, 4, seen) for seen in (0, 4, 8))
    assert pieces == flops.decoder_flops(decoder.config, 12, 0)


@pytest.mark.parametrize(("interval", "saved"), [(2, 0.346), (4, 0.519)])
def test_bound_of_reusing_three_quarters_at_official_size(interval: int, saved: float) -> None:
    dense = flops.vision_flops(_tower())
    selective = selective_frame_flops(_tower(), [182] * 27)
    mean = (dense + (interval - 1) * selective) / interval
    assert 1 - mean / dense == pytest.approx(saved, abs=2e-3)

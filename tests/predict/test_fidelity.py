"""Likeness of features and of answer logits, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from stc_lab.predict.fidelity import answer_fidelity, feature_fidelity
from stc_lab.types import Answer


def answer(letters: dict[str, float] | None = None, first: list[float] | None = None) -> Answer:
    logits = None if first is None else torch.tensor(first)
    return Answer("", None, "letter_logits", letter_logits=letters, first_logits=logits)


def test_cosine_is_a_mean_over_tokens_and_the_worst_is_told() -> None:
    features = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
    reference = torch.tensor([[30.0, 40.0], [1.0, 1.0], [5.0, 0.0]])
    found = feature_fidelity(features, reference)
    assert found == {"feature_cosine": pytest.approx((1 + math.sqrt(0.5)) / 3, abs=1e-6), "worst_token_cosine": 0.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_features_are_exactly_alike_zeros_included(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    features = torch.randn(200, 48).to(dtype) * 17
    features[3] = 0
    assert feature_fidelity(features, features.clone()) == {"feature_cosine": 1.0, "worst_token_cosine": 1.0}
    changed = features.clone()
    changed[3] = 1
    assert feature_fidelity(features, changed)["worst_token_cosine"] == 0.0


def test_divergence_is_from_the_reference_to_the_answer_in_nats() -> None:
    mine, theirs = {"A": math.log(0.5), "B": math.log(0.5)}, {"A": math.log(0.9) + 7, "B": math.log(0.1) + 7}
    found = answer_fidelity(answer(mine), answer(theirs))
    expected = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert found == {"kl_divergence": pytest.approx(expected, abs=1e-8), "top1_agrees": True, "over": "choices"}
    swapped = answer_fidelity(answer(theirs), answer(mine))["kl_divergence"]
    assert swapped == pytest.approx(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1), abs=1e-8)


def test_without_options_the_first_token_decides() -> None:
    found = answer_fidelity(answer(first=[1.0, 0.0, 0.0]), answer(first=[0.0, 0.0, 1.0]))
    share = math.e / (math.e + 2)
    assert found == {
        "kl_divergence": pytest.approx(share - (1 - share) / 2, abs=1e-8), "top1_agrees": False, "over": "vocabulary",
    }  # fmt: skip
    same = answer_fidelity(answer(first=[0.3, 0.2, 8.1]), answer(first=[0.3, 0.2, 8.1]))
    assert (same["kl_divergence"], same["top1_agrees"]) == (0.0, True)

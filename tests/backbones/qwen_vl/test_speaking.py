"""Choosing tokens."""

from __future__ import annotations

import torch

from stc_lab.language.context import SamplingParams, generate

LOGITS = torch.tensor([2.0, 1.9, -1.0, 0.5])


def test_penalty_pushes_down_what_was_said() -> None:
    none, zero = torch.zeros(4, dtype=torch.bool), torch.tensor([True, False, False, False])
    assert SamplingParams().choose(LOGITS, zero, 0, None) == 0
    assert SamplingParams(1.2).choose(LOGITS, none, 0, None) == 0
    assert SamplingParams(1.2).choose(LOGITS, zero, 0, None) == 1
    negative = torch.tensor([-1.0, -1.1])
    assert SamplingParams(1.2).choose(negative, zero[:2], 0, None) == 1


def test_silence_needs_to_be_sure_less_and_less() -> None:
    seen = torch.zeros(4, dtype=torch.bool)
    probability = float(LOGITS.softmax(-1)[0])
    voice = SamplingParams(silence_threshold=probability + 0.15, silence_step=-0.1, silence_id=0)
    assert [voice.choose(LOGITS, seen, step, None) for step in range(3)] == [1, 1, 0]


def test_sampling_follows_its_generator() -> None:
    seen = torch.zeros(4, dtype=torch.bool)

    def draws(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return [SamplingParams(temperature=2.0).choose(LOGITS, seen, 0, generator) for _ in range(20)]

    assert draws(1) == draws(1) != draws(2)


def test_words_end_with_a_stop_token_or_at_the_limit() -> None:
    """The last token is never read; what is read counts as said."""
    table = torch.eye(4)[[1, 2, 3, 0]]

    class Chain:
        """A context in which every token has one successor."""

        def __init__(self) -> None:
            self.ids, self.read_ids = [0], []

        def read(self, segments) -> torch.Tensor:
            (token,) = segments[0].ids
            self.read_ids.append(token)
            return table[token]

    chain = Chain()
    spoken = generate(chain, table[0], 9, {3})
    assert (spoken.ids, chain.read_ids, spoken.num_steps) == ([1, 2, 3], [1, 2], 2)
    assert spoken.is_ended and spoken.text_ids == [1, 2]
    assert torch.equal(spoken.first_logits, table[0]) and torch.equal(spoken.last_logits, table[2])
    cut = generate(Chain(), table[0], 2, {3})
    assert cut.ids == cut.text_ids == [1, 2] and not cut.is_ended

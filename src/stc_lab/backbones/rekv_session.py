"""One stream on ReKV: every frame a block, every question its own retrieved context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from stc_lab.backbones.prompts import INIT, answer_prompt
from stc_lab.backbones.reply import ReadPrompt, answer_after
from stc_lab.backbones.session import StreamSession
from stc_lab.language.kv import ReKVMemory
from stc_lab.language.kv.retrieved import RetrievedStore
from stc_lab.measure.flops import decoder_flops
from stc_lab.types import Answer, Question, VisualTokens

if TYPE_CHECKING:
    from stc_lab.backbones.rekv import ReKV


class ReKVSession(StreamSession):
    """Frames go into the memory one block each; a question retrieves blocks by its raw text, per layer."""

    backbone: ReKV

    def stats(self) -> dict[str, int]:
        """Sizes of the memory.

        ``num_tokens``: visual tokens remembered; ``num_blocks``: frames they came from; ``num_offloaded_blocks``:
        those that left the device; ``kv_bytes_device``: windows, init tokens, representative keys, blocks still on
        the device; ``kv_bytes_host``: offloaded blocks (on a CPU these are counted, but not moved);
        ``kv_bytes_reserved``: memory taken for the windows, used or not.
        """
        memory = self._memory
        sizes = {
            "num_tokens": memory.num_tokens - memory.num_init,
            "num_blocks": memory.num_blocks,
            "num_offloaded_blocks": memory.layers[0].pool.num_offloaded,
            "kv_bytes_device": memory.device_bytes,
            "kv_bytes_host": memory.host_bytes,
            "kv_bytes_reserved": memory.reserved_bytes,
        }
        return super().stats() | sizes

    def _start_memory(self) -> None:
        backbone = self.backbone
        self._memory = ReKVMemory(backbone.decoder.shape, backbone.memory_settings, backbone.device)
        self._read(INIT, self._memory)

    def _drop_memory(self) -> None:
        self._memory = None

    def _remember(self, frames: Sequence[VisualTokens]) -> list[int]:
        flops, position = [], self._memory.num_tokens
        for frame in frames:
            flops.append(self._prefill_flops(frame.num_tokens, position))
            position += frame.num_tokens
        tokens = [frame.tokens for frame in frames if frame.num_tokens]
        if tokens:
            self.backbone.decoder(torch.cat(tokens), self._memory, lengths=[len(block) for block in tokens])
        return flops

    def _answer(self, question: Question, mark: float) -> Answer:
        timer, backbone = self.timer, self.backbone
        store = self._memory.retrieve()
        with timer.stage("retrieve"):
            num_question = self._read(question.query, store)
            store.drop_question()
        flops = {"retrieve": self._retrieve_flops(store, num_question)}
        answer, _ = answer_after(backbone, question, timer, mark, lambda: self._read_prompt(question, store))
        answer.flops = flops | answer.flops
        answer.details = self._details(store, num_question)
        return answer

    def _read_prompt(self, question: Question, store: RetrievedStore) -> ReadPrompt:
        num_context, decoder = _num_context(store), self.backbone.decoder
        prompt = self.backbone.loaded.token_ids(answer_prompt(question))
        return ReadPrompt(store, decoder.logits(decoder(decoder.embed(prompt), store)[-1]), len(prompt), num_context)

    def _read(self, text: str, store: ReKVMemory | RetrievedStore) -> int:
        """Run ``text`` through the decoder; returns its number of tokens."""
        decoder, token_ids = self.backbone.decoder, self.backbone.loaded.token_ids(text)
        decoder(decoder.embed(token_ids), store)
        return len(token_ids)

    def _details(self, store: RetrievedStore, num_question: int) -> dict:
        blocks = store.block_indices
        is_chosen = any(scores is not None for scores in store.scores)
        return {
            "num_question_tokens": num_question,
            "num_blocks": self._memory.num_blocks,
            "num_retrieved": max(map(len, blocks)),
            "retrieved_blocks": blocks if is_chosen else "all",
        }

    def _prefill_flops(self, num_tokens: int, position: int) -> int:
        """One frame at ``position``: it sees what came before, later the window and the init tokens."""
        n_local, num_init = self.backbone.memory_settings.n_local, self._memory.num_init
        context = position
        if position + num_tokens > n_local:
            context = max(0, n_local + num_init - (num_tokens + 1) // 2)
        return decoder_flops(self.backbone.decoder.sizes, num_tokens, context)

    def _retrieve_flops(self, store: RetrievedStore, num_question: int) -> int:
        """Reading the question, and scoring every block in every layer."""
        sizes, shape = self.backbone.decoder.sizes, self.backbone.decoder.shape
        scoring = 2 * self._memory.num_blocks * shape.num_layers * shape.num_kv_heads * shape.head_dim
        return decoder_flops(sizes, num_question, _num_context(store)) + scoring


def _num_context(store: RetrievedStore) -> int:
    """Tokens before the prompt, on average over layers."""
    return sum(store.context_lengths) // len(store.context_lengths)

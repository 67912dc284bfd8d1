"""Language stages: letters are bound to options, then questions about streams of visual tokens are answered."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import LlavaOnevisionForConditionalGeneration

from stc_lab.pocket.world.labels import BACKGROUND
from stc_lab.training.batches import IGNORE, QuestionEncoder, QuestionTokens, StreamBatch
from stc_lab.training.codes import VisualCode
from stc_lab.training.packed import packed_hidden

NOISE_RMS = 0.10
FLIP_SHARE = 0.03


class LanguageModel(nn.Module):
    """The decoder of a LLaVA-OneVision model with the losses of the language stages."""

    def __init__(self, model: LlavaOnevisionForConditionalGeneration, encoder: QuestionEncoder) -> None:
        super().__init__()
        self.decoder, self.lm_head = model.model.language_model, model.lm_head
        self.encoder, self.code = encoder, VisualCode(model.config.text_config.hidden_size)

    @torch.no_grad()
    def start_words_from_code(self, norm: float = 1.7) -> None:
        """Let the words for what can be seen begin in the direction in which it is seen; training may move them."""
        for word, direction in self.code.words().items():
            index = self.encoder.tokenizer.convert_tokens_to_ids(word)
            self.decoder.embed_tokens.weight[index] = norm * direction

    def symbol_loss(self, batch: StreamBatch) -> tuple[Tensor, dict[str, float]]:
        """Loss on tokens made from labels: the visual code with noise and a few wrong shapes."""
        return self.loss(self._symbols(batch), batch)

    def loss(self, tokens: Tensor, batch: StreamBatch) -> tuple[Tensor, dict[str, float]]:
        """See :func:`answer_loss`; ``tokens`` [S, T, B, D] visual tokens of the chosen cells."""
        questions = batch.questions
        return answer_loss(self.lm_head(self.hidden(tokens, questions.ids, questions.frames_seen)), questions)

    def hidden(self, tokens: Tensor, ids: Tensor, frames_seen: Tensor) -> Tensor:
        """Hidden states [S, Q, L, D] of the question tokens after init prompt and visible frames."""
        embed = self.decoder.embed_tokens
        size, _, budget = tokens.shape[:3]
        init = embed(self.encoder.init_ids).expand(size, -1, -1)
        prefix = torch.cat([init, tokens.flatten(1, 2).reshape(size, -1, init.shape[-1])], dim=1)
        num_seen = init.shape[1] + frames_seen.clamp(max=tokens.shape[1]) * budget
        return packed_hidden(self.decoder, prefix, embed(ids), num_seen)

    def _symbols(self, batch: StreamBatch) -> Tensor:
        if not batch.cells.numel():
            return torch.zeros(*batch.cells.shape, self.code.place.shape[-1])
        codes = self.code.at(batch.cells, with_wrong_shapes(batch.kind), batch.color, batch.coverage)
        return codes + NOISE_RMS * torch.randn_like(codes)


def with_wrong_shapes(kind: Tensor) -> Tensor:
    """``kind`` of cells with a few shapes taken for others."""
    flips = (torch.rand(kind.shape) < FLIP_SHARE) & (kind < BACKGROUND)
    return torch.where(flips, torch.randint_like(kind, BACKGROUND), kind)


def answer_loss(logits: Tensor, questions: QuestionTokens) -> tuple[Tensor, dict[str, float]]:
    """Letter (and end) at the answer place, a quarter of it for the answer word at the question mark.

    ``logits`` [S, Q, L, V] of the question tokens.
    """
    letter = F.cross_entropy(logits.flatten(0, 2), questions.letter.flatten(), ignore_index=IGNORE)
    word = F.cross_entropy(logits.flatten(0, 2), questions.word.flatten(), ignore_index=IGNORE)
    metrics = {"letter": letter.item(), "word": word.item(), "acc": letter_accuracy(logits, questions.letter)}
    metrics["word_acc"] = _accuracy(logits, questions.word)
    return 2.0 * letter + 0.5 * word, metrics


def letter_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of right letters; the end token that follows a letter is left out."""
    is_letter = (labels != IGNORE) & (torch.roll(labels, -1, dims=-1) != IGNORE)
    return _accuracy(logits, torch.where(is_letter, labels, IGNORE))


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    mask = labels != IGNORE
    return (logits[mask].argmax(-1) == labels[mask]).float().mean().item()


class Ahead:
    """Batches of ``dataset`` in step order, made in another process while the model trains."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset, self._batches, self._next = dataset, None, -1

    def __getitem__(self, step: int) -> StreamBatch:
        if self._batches is None or step != self._next:
            steps = range(step, len(self._dataset))
            loader = DataLoader(self._dataset, batch_size=None, sampler=steps, num_workers=1, prefetch_factor=4)
            self._batches = iter(loader)
        self._next = step + 1
        return next(self._batches)

"""Language stages: letters are bound to options, questions about streams are answered, turns are commented on.

Learners differ in what stands in front of a question; how questions are packed and what is learned from them is the
same for all but the Qwen-VL models, which also speak.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedModel

from stc_lab.backbones.qwen_vl.model import ANSWER_START, CHOOSE
from stc_lab.language.chat import ASSISTANT
from stc_lab.pocket.world.labels import BACKGROUND
from stc_lab.training.batches import IGNORE, QuestionEncoder, QuestionTokens, StreamBatch
from stc_lab.training.codes import SCALE, PairCode, VisualCode
from stc_lab.training.models.qwen_vl import PLACE_LAYERS
from stc_lab.training.packed import packed_hidden, packed_states
from stc_lab.training.qwen_batches import LETTER, SPEECH, WORD, TurnBatch
from stc_lab.training.qwen_turns import Vocabulary

NOISE_RMS, TURN_NOISE_RMS = 0.10, 0.12
FLIP_SHARE = 0.03
WEIGHTS = {LETTER: 2.0, WORD: 0.5, SPEECH: 1.0}
NAMES = {LETTER: "letter", WORD: "word", SPEECH: "speech"}
PLACE_WEIGHT = 1.0
SILENCE_WEIGHT = 0.4
"""Of a reply that says nothing, as most do: at par, a model that sees that something happens, and not yet what, learns
to be silent."""


class AnswerLearner(nn.Module):
    """A decoder that learns to answer questions behind a prefix."""

    def __init__(self, decoder: nn.Module, lm_head: nn.Module, encoder: QuestionEncoder) -> None:
        super().__init__()
        self.decoder, self.lm_head, self.encoder = decoder, lm_head, encoder

    def prefix(self, batch) -> tuple[Tensor, Tensor]:
        """Embeddings [S, P, D] in front of the questions, and how many of them each question sees [S, Q]."""
        raise NotImplementedError

    def loss(self, batch) -> tuple[Tensor, dict[str, float]]:
        """See :func:`answer_loss`."""
        return answer_loss(self.logits(batch), batch.questions)

    def logits(self, batch) -> Tensor:
        """[S, Q, L, vocabulary] at the tokens of the questions."""
        return self.lm_head(self.hidden(*self.prefix(batch), batch.questions.ids))

    def hidden(self, prefix: Tensor, num_visible: Tensor, ids: Tensor) -> Tensor:
        """Hidden states [S, Q, L, D] of question tokens ``ids`` [S, Q, L] behind a prefix."""
        return packed_hidden(self.decoder, prefix, self.decoder.embed_tokens(ids), num_visible)


class StreamLearner(AnswerLearner):
    """The decoder of a LLaVA-OneVision model; each question sees the frames before it."""

    def __init__(self, model: LlavaOnevisionForConditionalGeneration, encoder: QuestionEncoder) -> None:
        super().__init__(model.model.language_model, model.lm_head, encoder)
        self.code = VisualCode(model.config.text_config.hidden_size)

    @torch.no_grad()
    def start_words_from_code(self, norm: float = 1.7) -> None:
        """Let the words for what can be seen begin in the direction in which it is seen; training may move them."""
        for word, direction in self.code.words().items():
            index = self.encoder.tokenizer.convert_tokens_to_ids(word)
            self.decoder.embed_tokens.weight[index] = norm * direction

    def prefix(self, batch: StreamBatch) -> tuple[Tensor, Tensor]:
        """Init prompt and real tokens, or the code of labels with noise and a few wrong shapes."""
        tokens = self._symbols(batch) if batch.tokens is None else batch.tokens
        return self.behind(tokens, batch.questions.frames_seen)

    def behind(self, tokens: Tensor, frames_seen: Tensor) -> tuple[Tensor, Tensor]:
        """Init prompt and visual ``tokens`` [S, T, B, D]; questions see the first ``frames_seen`` [S, Q] frames."""
        size, num_frames, budget = tokens.shape[:3]
        init = self.decoder.embed_tokens(self.encoder.init_ids).expand(size, -1, -1)
        prefix = torch.cat([init, tokens.flatten(1, 2).reshape(size, -1, init.shape[-1])], dim=1)
        return prefix, init.shape[1] + frames_seen.clamp(max=num_frames) * budget

    def _symbols(self, batch: StreamBatch) -> Tensor:
        if not batch.cells.numel():
            return torch.zeros(*batch.cells.shape, self.code.place.shape[-1])
        codes = self.code.at(batch.cells, with_wrong_shapes(batch.kind), batch.color, batch.coverage)
        return codes + NOISE_RMS * torch.randn_like(codes)


def padded(prefixes: Sequence[Tensor], questions: QuestionTokens) -> tuple[Tensor, Tensor]:
    """Prefixes [P_i, D] as one tensor, and how much of it every question sees: all of its own."""
    lengths = torch.tensor([len(prefix) for prefix in prefixes])
    return pad_sequence(list(prefixes), batch_first=True), lengths[:, None].expand(questions.ids.shape[:2])


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
    # The end token that follows a letter is easy: it does not count as an answer.
    is_letter = (questions.letter != IGNORE) & (torch.roll(questions.letter, -1, dims=-1) != IGNORE)
    metrics = {"letter": letter.item(), "word": word.item(), "word_acc": _accuracy(logits, questions.word)}
    metrics["acc"] = _accuracy(logits, torch.where(is_letter, questions.letter, IGNORE))
    return 2.0 * letter + 0.5 * word, metrics


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    mask = labels != IGNORE
    return (logits[mask].argmax(-1) == labels[mask]).float().mean().item()


class TurnLearner(nn.Module):
    """The text model of a pocket Qwen-VL: comment on every turn, answer questions, know where things are."""

    def __init__(self, model: PreTrainedModel, words: Vocabulary) -> None:
        super().__init__()
        self.decoder, self.lm_head = model.model.language_model, model.lm_head
        self.words, self.code = words, PairCode(model.config.text_config.hidden_size)

    @property
    def layers(self) -> nn.Module:
        """Whose matrices Muon takes."""
        return self.decoder.layers

    @torch.no_grad()
    def start_phrases(self) -> None:
        """Phrases begin as those of ReKV that stand in the same place."""
        embed = self.decoder.embed_tokens.weight
        for ours, theirs in ((ANSWER_START, "Best option: ("), (CHOOSE, "Only give the best option.")):
            embed[self.words.token_ids(ours)[0]] = embed[self.words.token_ids(theirs)[0]]

    def place_loss(self, batch: TurnBatch) -> tuple[Tensor, dict[str, float]]:
        """Places alone; the layers behind are not run."""
        x = self._embedded(batch)
        *_, states = islice(self._states(x, batch), PLACE_LAYERS)
        return self._places(states, x, batch)

    def loss(self, batch: TurnBatch) -> tuple[Tensor, dict[str, float]]:
        """Weighted cross entropies of answer letters, answer words and speech, and the error of places."""
        x = self._embedded(batch)
        states = list(self._states(x, batch))
        hidden = self.decoder.norm(states[-1])
        place, metrics = self._places(states[PLACE_LAYERS - 1], x, batch)
        # Each kind of label has its own weight; a batch need not hold all of them.
        total = PLACE_WEIGHT * place
        for kind, name in NAMES.items():
            mask = batch.labels[kind] != IGNORE
            if mask.any():
                labels, logits = batch.labels[kind][mask], self.lm_head(hidden[mask])
                loss = self._loss(logits, labels, kind, batch.ids[mask])
                total = total + WEIGHTS[kind] * loss
                metrics[name] = loss.item()
                metrics[f"{name}_acc"] = self._accuracy(logits, labels, kind)
        return total, metrics

    def _loss(self, logits: Tensor, labels: Tensor, kind: int, ids: Tensor) -> Tensor:
        """Mean cross entropy; ``ids``: the tokens behind which ``labels`` are to be said."""
        if kind != SPEECH:
            return F.cross_entropy(logits, labels)
        # Silence at once, right behind the start of a reply, counts less.
        is_silent = (labels == self.words.silence_id) & (ids == self.words.token_ids(ASSISTANT)[-1])
        weights = torch.where(is_silent, SILENCE_WEIGHT, 1.0)
        return (weights * F.cross_entropy(logits, labels, reduction="none")).sum() / weights.sum()

    def _embedded(self, batch: TurnBatch) -> Tensor:
        x = self.decoder.embed_tokens(batch.ids)
        return x.masked_scatter(batch.is_visual[..., None], self.pictures(batch))

    def _states(self, x: Tensor, batch: TurnBatch) -> Iterator[Tensor]:
        return packed_states(self.decoder, x, batch.positions, batch.visible, batch.question)

    def _places(self, states: Tensor, x: Tensor, batch: TurnBatch) -> tuple[Tensor, dict[str, float]]:
        """Behind the lowest layers visual tokens should say where they lie, as those of ReKV do, and text be as it was;
        in units of what is to be said."""
        if not batch.is_visual.any():
            return states.new_zeros(()), {}
        place = SCALE * self.code.place[batch.cells]
        # The lowest layers may add a place to visual tokens, and nothing to text.
        change = states - x
        visual = F.mse_loss(change[batch.is_visual], place)
        text = change[~batch.is_visual & (batch.ids != self.words.pad_id)].square().mean()
        error = (visual + 0.3 * text) / place.var()
        return error, {"place": (visual / place.var()).item()}

    def pictures(self, batch: TurnBatch) -> Tensor:
        """Visual tokens [N, D]: real ones, or the code of labels with noise and a few wrong shapes."""
        if batch.tokens is not None:
            return batch.tokens.float()
        codes = self.code.of_fields(**batch.fields | {"kind": with_wrong_shapes(batch.fields["kind"])})
        return codes + TURN_NOISE_RMS * torch.randn_like(codes)

    def _accuracy(self, logits: Tensor, labels: Tensor, kind: int) -> float:
        """The end token behind a letter is left out, and so are silence and the end of a line."""
        trivial = {self.words.im_end_id} if kind == LETTER else {self.words.im_end_id, self.words.silence_id}
        counts = torch.tensor([label not in trivial for label in labels.tolist()], dtype=torch.bool)
        return (logits.argmax(-1) == labels)[counts].float().mean().item() if counts.any() else 0.0

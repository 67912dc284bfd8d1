"""Language stages of the Qwen-VL pockets: comment on every turn, answer questions, know where things are."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from stc_lab.backbones.qwen_vl.model import ANSWER_START, CHOOSE
from stc_lab.language.chat import ASSISTANT
from stc_lab.training.batches import IGNORE
from stc_lab.training.codes import SCALE
from stc_lab.training.language import with_wrong_shapes
from stc_lab.training.models.qwen_vl import PLACE_LAYERS
from stc_lab.training.optimizers import muon_and_adamw
from stc_lab.training.qwen_codes import PairCode
from stc_lab.training.qwen_collate import LETTER, SPEECH, WORD, TurnBatch
from stc_lab.training.qwen_packed import packed_hidden
from stc_lab.training.qwen_strips import Words

NOISE_RMS = 0.12
WEIGHTS = {LETTER: 2.0, WORD: 0.5, SPEECH: 1.0}
NAMES = {LETTER: "letter", WORD: "word", SPEECH: "speech"}
PLACE_WEIGHT = 1.0
SILENCE_WEIGHT = 0.4
"""Of a reply that says nothing, as most do: at par, a model that sees that something happens, and not yet what, learns
to be silent."""


class QwenLanguage(nn.Module):
    """The text model of a pocket Qwen-VL with the losses of the language stages."""

    def __init__(self, model: PreTrainedModel, words: Words) -> None:
        super().__init__()
        self.decoder, self.lm_head = model.model.language_model, model.lm_head
        self.words, self.code = words, PairCode(model.config.text_config.hidden_size)

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
        is_silent = (labels == self.words.silence_id) & (ids == self.words.token_ids(ASSISTANT)[-1])
        weights = torch.where(is_silent, SILENCE_WEIGHT, 1.0)
        return (weights * F.cross_entropy(logits, labels, reduction="none")).sum() / weights.sum()

    def _embedded(self, batch: TurnBatch) -> Tensor:
        x = self.decoder.embed_tokens(batch.ids)
        return x.masked_scatter(batch.is_visual[..., None], self.pictures(batch))

    def _states(self, x: Tensor, batch: TurnBatch) -> Iterator[Tensor]:
        return packed_hidden(self.decoder, x, batch.positions, batch.visible, batch.question)

    def _places(self, states: Tensor, x: Tensor, batch: TurnBatch) -> tuple[Tensor, dict[str, float]]:
        """Behind the lowest layers visual tokens should say where they lie, as those of ReKV do, and text be as it was;
        in units of what is to be said."""
        if not batch.is_visual.any():
            return states.new_zeros(()), {}
        place = SCALE * self.code.place[batch.cells]
        change = states - x
        visual = F.mse_loss(change[batch.is_visual], place)
        text = change[~batch.is_visual & (batch.ids != self.words.pad_id)].square().mean()
        error = (visual + 0.3 * text) / place.var()
        return error, {"place": (visual / place.var()).item()}

    def pictures(self, batch: TurnBatch) -> Tensor:
        """Visual tokens [N, D]: those of a shelf, or the code of labels with noise and a few wrong shapes."""
        if batch.tokens is not None:
            return batch.tokens.float()
        codes = self.code.of_fields(**batch.fields | {"kind": with_wrong_shapes(batch.fields["kind"])})
        return codes + NOISE_RMS * torch.randn_like(codes)

    def _accuracy(self, logits: Tensor, labels: Tensor, kind: int) -> float:
        """The end token behind a letter is left out, and so are silence and the end of a line."""
        trivial = {self.words.im_end_id} if kind == LETTER else {self.words.im_end_id, self.words.silence_id}
        counts = torch.tensor([label not in trivial for label in labels.tolist()], dtype=torch.bool)
        return (logits.argmax(-1) == labels)[counts].float().mean().item() if counts.any() else 0.0


def optimizers(model: QwenLanguage, muon_lr: float, adamw_lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers."""
    return muon_and_adamw(model, model.decoder.layers, muon_lr, adamw_lr, betas=(0.9, 0.95), weight_decay=0.01)

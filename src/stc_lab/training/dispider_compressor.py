"""Dispider's compressor stage: clips become memories, memories and a question become a decision and a retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from stc_lab.backbones.dispider.compressor import CLIP_TEXT
from stc_lab.backbones.dispider.networks import DispiderModel
from stc_lab.memories.dispider import ANSWERED, QUESTION, TEMPERATURE, TO_DO, Memories, Piece, Summary
from stc_lab.pocket.world.clip_labels import ABSENT
from stc_lab.pocket.world.vocabulary import COLOR_NAMES, CORNERS, SHAPES
from stc_lab.training.batches import CELLS
from stc_lab.training.causal import causal_hidden, last_states

NUM_ANSWERS = (len(COLOR_NAMES) + 1, len(CORNERS) + 1)


@dataclass
class ClipView:
    """A clip of S streams on its way into the compressor: ``seen`` [S, f, B, D] tokens of ``cells`` [S, f, B],
    ``means`` [S, f + 1, D] of its frames and of all of it; it starts at ``start_s``."""

    seen: Tensor
    cells: Tensor
    means: Tensor
    start_s: int


@dataclass
class Seq:
    """A sequence for the judge: what it says about stream ``stream`` in which order, with the question ``text``."""

    stream: int
    pieces: list[Piece]
    text: str


class Compressor(nn.Module):
    """The compressor with its head, and probes for what memories hold, which are thrown away."""

    def __init__(self, model: DispiderModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.decoder, self.silent_head = model.compressor["model"], model.silent_head
        self.tokenizer = tokenizer
        width = self.decoder.config.hidden_size
        self.frame_probe = nn.Linear(width, len(SHAPES) * sum(NUM_ANSWERS))
        self.clip_probe = nn.Linear(width, len(SHAPES) * sum(NUM_ANSWERS))
        self.color_probe = nn.Linear(width, len(COLOR_NAMES) * (len(SHAPES) + 1))

    def perceive(self, clip: ClipView) -> tuple[Tensor, Tensor]:
        """Memory [S, f, D] and indicator [S, D]. Tokens that are left out leave gaps in the positions."""
        size, frames = clip.cells.shape[:2]
        text = self._words(clip_text(clip.start_s, frames)).expand(size, -1, -1)
        num_text, num_tokens = text.shape[1], frames * CELLS
        offsets = num_text + CELLS * torch.arange(frames)[:, None]
        ends = num_text + num_tokens + torch.arange(frames + 1)
        positions = [torch.arange(num_text).expand(size, -1), (clip.cells + offsets).flatten(1), ends.expand(size, -1)]
        x = torch.cat([text, clip.seen.flatten(1, 2), clip.means], dim=1)
        states = causal_hidden(self.decoder, x, torch.cat(positions, dim=1))[:, -frames - 1 :]
        return states[:, :-1], states[:, -1]

    def summaries(self, segments: Sequence[tuple[list[Tensor], Tensor]]) -> list[Tensor]:
        """Summarising states [n, D] of segments: the memories [f, D] of n clips and their indicators [n, D]."""
        if not segments:
            return []
        rows = [torch.cat([*memories, indicators]) for memories, indicators in segments]
        return last_states(self.decoder, rows, [len(indicators) for _, indicators in segments])

    def judge(self, seqs: Sequence[Seq], memories: list[Tensor], indicators: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Last states [Q, D] of sequences, and the summaries that stood in them.

        ``memories``: [S, f, D] for every clip; ``indicators`` [S, clips, D].
        """
        spans = [(seq.stream, piece) for seq in seqs for piece in seq.pieces if isinstance(piece, Summary)]
        summaries = self.summaries(
            [([m[s] for m in memories[p.start : p.stop]], indicators[s, p.start : p.stop]) for s, p in spans]
        )
        left = iter(summaries)
        rows = [torch.cat([self._piece(p, seq, memories, left) for p in seq.pieces]) for seq in seqs]
        return torch.cat(last_states(self.decoder, rows, [1] * len(rows))), summaries

    def scores(self, states: Tensor) -> Tensor:
        """Decision logits [Q]; positive: respond."""
        return self.silent_head(states)[:, 0]

    def similarity(self, states: Tensor, indicators: Tensor) -> Tensor:
        """Logits [Q, clips] of retrieval from states [Q, D] and indicators [Q, clips, D]."""
        cosine = F.cosine_similarity(states[:, None], indicators, dim=-1)
        return cosine / TEMPERATURE

    def _piece(self, piece: Piece, seq: Seq, memories: list[Tensor], summaries) -> Tensor:
        if isinstance(piece, Summary):
            return next(summaries)
        if isinstance(piece, Memories):
            return torch.cat([memory[seq.stream] for memory in memories[piece.start : piece.stop]])
        return self._words({QUESTION: seq.text + TO_DO, ANSWERED: ANSWERED, TO_DO: TO_DO}[piece])

    def _words(self, text: str) -> Tensor:
        return self.decoder.embed_tokens(torch.tensor(self.tokenizer(text, add_special_tokens=False).input_ids))


def clip_text(start_s: int, num_frames: int) -> str:
    """What the compressor is told about a clip of one frame a second; a single frame has no length."""
    return CLIP_TEXT.format(start=start_s, end=start_s + (num_frames if num_frames > 1 else 0))


def probe_loss(logits: Tensor, color: Tensor, corner: Tensor) -> tuple[Tensor, float]:
    """Colour and corner of every shape from states: logits [N, shapes * classes], labels int [N, shapes].

    Also the share of shapes that are there whose colour is right.
    """
    by_shape = logits.view(len(logits), len(SHAPES), -1)
    of_color, of_corner = by_shape.split(NUM_ANSWERS, dim=-1)
    loss = F.cross_entropy(of_color.flatten(0, 1), color.flatten() + 1)
    loss = loss + 0.5 * F.cross_entropy(of_corner.flatten(0, 1), corner.flatten() + 1)
    there = color != ABSENT
    right = (of_color.argmax(-1) == color + 1)[there].float().mean().item()
    return loss, right

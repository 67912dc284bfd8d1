"""Dispider's compressor stages: clips become memories, memories and a question become a decision and a retrieval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from stc_lab.backbones.dispider.networks import CLIP_TEXT, DispiderModel
from stc_lab.memories.dispider import (
    ANSWERED,
    QUESTION,
    TEMPERATURE,
    TO_DO,
    Memories,
    Piece,
    Summary,
    question_sequence,
    streaming_sequence,
)
from stc_lab.pocket.world.labels import ABSENT, BACKGROUND, States, Watch, relevant_clips, sample_watches
from stc_lab.pocket.world.questions import PocketQuestion, sample_questions
from stc_lab.pocket.world.script import Script
from stc_lab.pocket.world.vocabulary import COLOR_NAMES, CORNERS, SHAPES
from stc_lab.training.batches import CELLS, HARD, Batches, mix_at
from stc_lab.training.features import CLIP_FRAMES, FeatureCache
from stc_lab.training.packed import causal_hidden, last_states

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
class JudgeSequence:
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

    @property
    def layers(self) -> nn.Module:
        """Whose matrices Muon takes."""
        return self.decoder.layers

    def loss(self, batch: ClipBatch) -> tuple[Tensor, dict[str, float]]:
        """See :func:`clip_loss`."""
        return clip_loss(self, batch)

    def perceive(self, clip: ClipView) -> tuple[Tensor, Tensor]:
        """Memory [S, f, D] and indicator [S, D]. Tokens that are left out leave gaps in the positions."""
        size, frames = clip.cells.shape[:2]
        text = self._words(clip_text(clip.start_s, frames)).expand(size, -1, -1)
        num_text, num_tokens = text.shape[1], frames * CELLS
        # Positions as if all cells were there: text, the frames' cells, then means of frames and of the clip.
        offsets = num_text + CELLS * torch.arange(frames)[:, None]
        ends = num_text + num_tokens + torch.arange(frames + 1)
        positions = [torch.arange(num_text).expand(size, -1), (clip.cells + offsets).flatten(1), ends.expand(size, -1)]
        x = torch.cat([text, clip.seen.flatten(1, 2), clip.means], dim=1)
        # The states at the means of the frames are the memory, that at the mean of the clip the indicator.
        states = causal_hidden(self.decoder, x, torch.cat(positions, dim=1))[:, -frames - 1 :]
        return states[:, :-1], states[:, -1]

    def summaries(self, segments: Sequence[tuple[list[Tensor], Tensor]]) -> list[Tensor]:
        """Summarising states [n, D] of segments: the memories [f, D] of n clips and their indicators [n, D]."""
        if not segments:
            return []
        rows = [torch.cat([*memories, indicators]) for memories, indicators in segments]
        return last_states(self.decoder, rows, [len(indicators) for _, indicators in segments])

    def judge(
        self, seqs: Sequence[JudgeSequence], memories: list[Tensor], indicators: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Last states [Q, D] of sequences, and the summaries that stood in them.

        ``memories``: [S, f, D] for every clip; ``indicators`` [S, clips, D].
        """
        spans = [(seq.stream, piece) for seq in seqs for piece in seq.pieces if isinstance(piece, Summary)]
        summaries = self.summaries(
            [([m[s] for m in memories[p.start : p.stop]], indicators[s, p.start : p.stop]) for s, p in spans]
        )
        # Each sequence takes its summaries in the order in which they were made.
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

    def _piece(self, piece: Piece, seq: JudgeSequence, memories: list[Tensor], summaries) -> Tensor:
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


@dataclass(frozen=True)
class ClipMix:
    """How batches are drawn: tokens of a frame that the compressor reads (in use it reads all cells), tokens in one
    batch, watched and asked questions of a stream, share of long streams; whether memories are probed by colour too."""

    budget: int
    tokens_per_batch: int
    num_watches: int = 8
    num_asked: int = 3
    long_share: float = 0.25
    by_color: bool = False


@dataclass
class ClipBatch:
    """S streams up to the same frame, as clips; ``watches`` and ``asked`` (questions and the clips that hold their
    answers) of every stream."""

    views: list[ClipView]
    states: list[States]
    watches: list[list[Watch]]
    asked: list[list[tuple[PocketQuestion, np.ndarray]]]
    by_color: bool = False

    def seqs(self) -> list[JudgeSequence]:
        """What the judge reads: all watched questions of all streams, then all asked ones."""
        rows = [
            JudgeSequence(s, streaming_sequence(w.num_clips, w.asked_at, w.answered_at), w.text)
            for s, watches in enumerate(self.watches)
            for w in watches
        ]
        ask = question_sequence("start", len(self.views))
        return rows + [JudgeSequence(s, ask, q.text) for s, asked in enumerate(self.asked) for q, _ in asked]


class ClipBatches(Batches):
    """Streams whose features are kept, cut into clips."""

    def __init__(self, caches: Mapping[int, FeatureCache], mixes: Mapping[int, ClipMix], seed: int) -> None:
        """``mixes`` maps the step from which a mix holds to it."""
        super().__init__(seed)
        self.caches, self.mixes = caches, mixes

    def draw(self, rng: np.random.Generator, step: int) -> ClipBatch:
        """Batch ``step``."""
        mix = mix_at(self.mixes, step)
        short, long = min(self.caches), max(self.caches)
        cache = self.caches[long if rng.random() < mix.long_share else short]
        num_frames = draw_end(rng, cache.duration_s, short)
        size = int(np.clip(mix.tokens_per_batch // (num_frames * mix.budget), 2, 16))
        chosen = rng.integers(len(cache), size=size)
        scripts = [cache.script(int(index)) for index in chosen]
        states = [States.of(script) for script in scripts]
        whole = num_frames // CLIP_FRAMES
        watches = [sample_watches(rng, s, whole, CLIP_FRAMES, mix.num_watches) for s in states]
        asked = [_asked(script, s, num_frames, mix.num_asked, step) for script, s in zip(scripts, states, strict=True)]
        views = clip_views(rng, cache, chosen, num_frames, mix.budget)
        return ClipBatch(views, states, watches, asked, mix.by_color)


def draw_end(rng: np.random.Generator, duration_s: int, short_s: int) -> int:
    """After how many frames questions are asked; often at the very end, where the past is longest."""
    earliest = CLIP_FRAMES if duration_s == short_s else short_s + 1
    return duration_s if rng.random() < 0.4 else int(rng.integers(earliest, duration_s + 1))


def asked_at_end(
    script: Script, num_frames: int, count: int, seed: int, emphasis: Mapping[str, float] = HARD
) -> list[PocketQuestion]:
    """Up to ``count`` different questions about a stream just after its first ``num_frames`` frames."""
    cut = replace(script, duration_s=num_frames)
    return sample_questions(cut, count, seed, first_s=num_frames - 1, emphasis=emphasis)


def clip_views(
    rng: np.random.Generator, cache: FeatureCache, chosen: Sequence[int], num_frames: int, budget: int
) -> list[ClipView]:
    """The clips of streams ``chosen`` up to ``num_frames``; the last may be shorter.

    Below all cells, those that show something are taken first: what is left out is mostly ground.
    """
    # What shows something is preferred by a whole point; chance breaks ties.
    kinds, tokens, means_so_far = (cache.stack(name, chosen)[:, :num_frames] for name in ("kinds", "seen", "means"))
    score = rng.random(kinds.shape) + (kinds != BACKGROUND)
    cells = np.sort(np.argpartition(-score, budget - 1, axis=-1)[..., :budget], axis=-1)
    views = []
    for start in range(0, num_frames, CLIP_FRAMES):
        span = slice(start, min(start + CLIP_FRAMES, num_frames))
        seen = np.take_along_axis(tokens[:, span], cells[:, span, :, None], axis=2)
        # The mean of every frame, and behind them that of the whole clip.
        means = np.concatenate([means_so_far[:, span, 0], means_so_far[:, span, 1][:, -1:]], axis=1)
        seen, picked, means = (torch.from_numpy(values) for values in (seen, cells[:, span], means))
        views.append(ClipView(seen.float(), picked, means.float(), start))
    return views


def clip_loss(model: Compressor, batch: ClipBatch) -> tuple[Tensor, dict[str, float]]:
    """Decision, retrieval, and the probes that say what memories, indicators and summaries should hold."""
    # Each clip on its own, then every question on all clips before it.
    perceived = [model.perceive(view) for view in batch.views]
    memories, indicators = [memory for memory, _ in perceived], torch.stack([last for _, last in perceived], dim=1)
    if not (seqs := batch.seqs()):
        return _probe(model, batch, memories, indicators, [], [])
    states, summaries = model.judge(seqs, memories, indicators)
    # Watched questions come first: they are decided; asked ones pick their clips.
    num_watches = sum(map(len, batch.watches))
    probes, metrics = _probe(model, batch, memories, indicators, seqs, summaries)
    decision, of_decision = _decision(model, batch, states[:num_watches])
    retrieval, hits = _retrieval(model, batch, states[num_watches:], indicators)
    metrics |= of_decision | {"retrieval": retrieval.item(), "retrieved": hits}
    return probes + 2.0 * decision + 0.5 * retrieval, metrics


def _decision(model: Compressor, batch: ClipBatch, states: Tensor) -> tuple[Tensor, dict[str, float]]:
    if not len(states):
        return states.new_zeros(()), {}
    labels = torch.tensor([float(watch.responds) for watches in batch.watches for watch in watches])
    scores = model.scores(states)
    loss = F.binary_cross_entropy_with_logits(scores, labels)
    right = (scores > 0) == (labels > 0.5)
    by_class = [right[labels == value].float().mean().item() for value in (0.0, 1.0) if (labels == value).any()]
    return loss, {"decision": loss.item(), "decided": float(np.mean(by_class))}


def _retrieval(model: Compressor, batch: ClipBatch, states: Tensor, indicators: Tensor) -> tuple[Tensor, float]:
    """Cross entropy to the clips that hold the answer, in equal shares; and how often one of them is the closest."""
    streams = [s for s, asked in enumerate(batch.asked) for _ in asked]
    if not streams:
        return states.new_zeros(()), 1.0
    relevant = np.stack([marks for asked in batch.asked for _, marks in asked])
    target = torch.from_numpy(relevant / relevant.sum(axis=1, keepdims=True)).float()
    logits = model.similarity(states, indicators[streams])
    hits = target.gather(1, logits.argmax(dim=1, keepdim=True)) > 0
    return F.cross_entropy(logits, target), hits.float().mean().item()


def _probe(
    model: Compressor,
    batch: ClipBatch,
    memories: list[Tensor],
    indicators: Tensor,
    seqs: list[JudgeSequence],
    summaries: list,
) -> tuple[Tensor, dict[str, float]]:
    memory = torch.cat(memories, dim=1)
    num_frames, num_clips = memory.shape[1], len(memories)
    color, corner = (torch.from_numpy(np.stack([getattr(s, name)[:num_frames] for s in batch.states]))
                     for name in ("color", "corner"))  # fmt: skip
    per_frame, found = probe_loss(model.frame_probe(memory.flatten(0, 1)), color.flatten(0, 1), corner.flatten(0, 1))
    at_clips = [_at_clips(table, num_clips) for table in (color, corner)]
    per_clip, _ = probe_loss(model.clip_probe(indicators.flatten(0, 1)), *(table.flatten(0, 1) for table in at_clips))
    loss, metrics = per_frame + 0.5 * per_clip, {"frame_probe": per_frame.item(), "clip_probe": per_clip.item()}
    metrics["seen_color"] = found
    if batch.by_color:
        of_color = model.color_probe(memory.flatten(0, 1)).view(-1, len(SHAPES) + 1)
        by_color = F.cross_entropy(of_color, _shape_of_color(color).flatten() + 1)
        loss, metrics = loss + by_color, metrics | {"by_color": by_color.item()}
    if summaries:
        spans = [(seq.stream, piece) for seq in seqs for piece in seq.pieces if isinstance(piece, Summary)]
        labels = [torch.cat([table[s, p.start : p.stop] for s, p in spans]) for table in at_clips]
        of_summary, _ = probe_loss(model.clip_probe(torch.cat(summaries)), *labels)
        loss, metrics = loss + 0.5 * of_summary, metrics | {"summary_probe": of_summary.item()}
    return loss, metrics


def _shape_of_color(color: Tensor) -> Tensor:
    """Colour of every shape [S, T, shapes] -> shape of every colour [S, T, colours]; no two have the same one."""
    matches = color[..., None] == torch.arange(len(COLOR_NAMES))
    return torch.where(matches.any(dim=-2), matches.int().argmax(dim=-2), ABSENT)


def _at_clips(table: Tensor, num_clips: int) -> Tensor:
    """What was last seen of every shape in each clip: [S, T, shapes] -> [S, clips, shapes]."""
    clips = []
    for index in range(num_clips):
        last = torch.full_like(table[:, 0], ABSENT)
        for second in table[:, index * CLIP_FRAMES : (index + 1) * CLIP_FRAMES].unbind(1):
            last = torch.where(second != ABSENT, second, last)
        clips.append(last)
    return torch.stack(clips, dim=1)


def _asked(
    script: Script, states: States, num_frames: int, count: int, seed: int
) -> list[tuple[PocketQuestion, np.ndarray]]:
    questions = asked_at_end(script, num_frames, count, seed)
    return [(q, relevant_clips(states, q, num_frames, CLIP_FRAMES)) for q in questions]

"""What the pocket model can and cannot know: ``python -m stc_lab.pocket.probe``.

Accuracy on held-out streams by number and choice of tokens, without any frame (blind), and with the present frame
alone. Questions are packed, so every token of the past is in reach: no window, no retrieval. Numbers of the whole
system come from ``python -m stc_lab``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

from stc_lab.pocket.dataset import QUESTIONS_PER_STREAM, held_out_script
from stc_lab.pocket.tokenizer import build_tokenizer
from stc_lab.pocket.world.questions import FAMILIES, PocketQuestion, sample_questions
from stc_lab.pruners.random import RandomPruner
from stc_lab.pruners.stc import STCPruner
from stc_lab.results.statistics import confidence_interval
from stc_lab.training.batches import CELLS, QuestionEncoder, QuestionTokens
from stc_lab.training.features import label_stream, stream_tokens
from stc_lab.training.language import StreamLearner
from stc_lab.training.vision import LlavaEncoder

BUDGETS = (196, 128, 64, 32, 16, 8)


@dataclass
class HeldOutStream:
    """A held-out stream as the tower sees it: ``tokens`` [T, 196, D], ``is_object`` bool [T, 196], its questions."""

    name: str
    tokens: Tensor
    is_object: Tensor
    questions: list[PocketQuestion]


class Probe:
    """Asks a pocket model about held-out streams in one pass per stream."""

    def __init__(self, model: LlavaOnevisionForConditionalGeneration) -> None:
        encoder = QuestionEncoder(build_tokenizer())
        self.language = StreamLearner(model, encoder).eval()
        self.vision = LlavaEncoder(model).eval()
        self.letter_ids = torch.tensor(encoder.tokenizer.convert_tokens_to_ids(list("ABCD")))

    @torch.inference_mode()
    def see(self, split: str, indices: Iterable[int]) -> list[HeldOutStream]:
        """Draw, encode, decode and look at streams of ``split``."""
        return [self._see(split, index) for index in track(list(indices), "streams")]

    def _see(self, split: str, index: int) -> HeldOutStream:
        script = held_out_script(split, index)
        is_object = torch.from_numpy(label_stream(script).is_object)
        tokens = stream_tokens(self.vision, script).float()
        return HeldOutStream(f"{split}-{index}", tokens, is_object, sample_questions(script, QUESTIONS_PER_STREAM))

    @torch.inference_mode()
    def correct(self, stream: HeldOutStream, kept: Tensor, how: str = "history") -> np.ndarray:
        """Which questions are answered right, bool [Q]. ``kept`` [T, B] cells of every frame; ``how``: history, blind
        or current (each question sees the frame of its own second alone)."""
        questions = self.language.encoder([stream.questions])
        tokens = torch.take_along_dim(stream.tokens, kept[..., None], dim=1)
        if how == "current":
            hidden = self._current(tokens, questions)
        else:
            seen = questions.frames_seen * (how == "history")
            hidden = self._hidden(tokens[None], seen, questions.ids)[0]
        at = (questions.letter[0] >= 0).int().argmax(-1)
        logits = self.language.lm_head(hidden[torch.arange(len(at)), at])[:, self.letter_ids]
        gold = torch.tensor(["ABCD".index(q.answer) for q in stream.questions])
        return (logits.argmax(-1) == gold).numpy()

    def _current(self, tokens: Tensor, questions: QuestionTokens) -> Tensor:
        own = tokens[questions.frames_seen[0] - 1][:, None]
        return self._hidden(own, torch.ones(len(own), 1, dtype=torch.long), questions.ids[0][:, None])[:, 0]

    def _hidden(self, tokens: Tensor, frames_seen: Tensor, ids: Tensor) -> Tensor:
        return self.language.hidden(*self.language.behind(tokens, frames_seen), ids)


def choices(budget: int) -> dict[str, Callable[[HeldOutStream], Tensor]]:
    """Ways to keep ``budget`` cells per frame: by STC, at random, by an oracle that knows where the shapes are."""
    if budget == CELLS:
        return {"all": lambda stream: torch.arange(CELLS).expand(len(stream.tokens), -1)}

    def by(pruner: STCPruner | RandomPruner) -> Callable[[HeldOutStream], Tensor]:
        return lambda stream: torch.stack([frame.positions for frame in pruner(stream.tokens)])

    def oracle(stream: HeldOutStream) -> Tensor:
        noise = torch.rand(stream.is_object.shape, generator=torch.Generator().manual_seed(0))
        return (stream.is_object + noise).topk(budget, dim=-1).indices.sort(dim=-1).values

    return {"stc": by(STCPruner(budget=budget)), "random": by(RandomPruner(budget=budget)), "oracle": oracle}


def rows(probe: Probe, streams: list[HeldOutStream], budgets: Iterable[int]) -> Iterable[tuple[str, np.ndarray]]:
    """(name, correct [Q]) for every budget and choice, then blind and current frame only."""
    full = choices(CELLS)["all"]
    for budget in budgets:
        for name, choose in choices(budget).items():
            yield f"{budget} {name}", np.concatenate([probe.correct(s, choose(s)) for s in streams])
    yield "blind", np.concatenate([probe.correct(s, full(s), "blind") for s in streams])
    yield "current frame only", np.concatenate([probe.correct(s, full(s), "current") for s in streams])


def table(streams: list[HeldOutStream], results: Iterable[tuple[str, np.ndarray]]) -> Table:
    """Accuracy in percent, over all with the 95 % interval clustered by stream, and per family."""
    names = [s.name for s in streams for _ in s.questions]
    groups = np.array([q.group for s in streams for q in s.questions])
    shown = Table("tokens", "overall", "95 % CI", *FAMILIES, title=f"{len(streams)} streams, {len(names)} questions")
    for name, correct in results:
        (low, high), _ = confidence_interval(correct.astype(float), names)
        families = [f"{100 * correct[groups == family].mean():.1f}" for family in FAMILIES]
        shown.add_row(name, f"{100 * correct.mean():.1f}", f"{100 * low:.1f} to {100 * high:.1f}", *families)
    return shown


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path(__file__).parent / "checkpoints" / "rekv")
    parser.add_argument("--split", default="dev", choices=("dev", "test"))
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--short", action="store_true", help="only the streams of 12 s")
    arguments = parser.parse_args()
    probe = Probe(LlavaOnevisionForConditionalGeneration.from_pretrained(arguments.checkpoint, dtype=torch.float32))
    indices = [i for i in range(arguments.streams) if not (arguments.short and i % 4 == 3)]
    streams = probe.see(arguments.split, indices)
    Console(width=100).print(table(streams, rows(probe, streams, arguments.budgets)))


if __name__ == "__main__":
    main()

"""Does the pocket Dispider know when to respond? ``python -m stc_lab.pocket.decisions``.

Questions about now are watched from the start of held-out streams. After every clip it is time to respond where the
question has an answer that was not given yet: in the clip in which its object appears, and where the answer changed
since the last response.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import rankdata

from stc_lab.backbones.base import VideoModel
from stc_lab.backbones.dispider import Dispider
from stc_lab.cachers import NoCacher, STCCacher
from stc_lab.cachers.base import Cacher
from stc_lab.memories.dispider import DispiderMemory
from stc_lab.pocket.dataset import held_out_script
from stc_lab.pocket.world.labels import ABSENT, WATCHED, States, is_time
from stc_lab.pocket.world.render import coded_frames
from stc_lab.pocket.world.script import Script
from stc_lab.pocket.world.vocabulary import COLOR_NAMES, NATIVE_FPS, SHAPES
from stc_lab.pruners import NoPruner
from stc_lab.session import StreamSession
from stc_lab.types import Decision, Question

NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class ScoredDecision:
    """A decision after one clip: its score, whether it was time, and whether the answer had been there before (the
    object's clip is ``first`` when it was not)."""

    stream: str
    task: str
    score: float
    is_time: bool
    first: bool


@dataclass
class Watched:
    """A question about one stream with the answers at the ends of its clips, and what was last responded."""

    question: Question
    answers: np.ndarray
    last: int = ABSENT
    judged: list[ScoredDecision] = field(default_factory=list)

    def judge(self, stream: str, decision: Decision) -> None:
        """Take down the next decision."""
        # What is known at the end of this clip, and not later.
        so_far = self.answers[: len(self.judged) + 1]
        first = so_far[-1] != ABSENT and bool((so_far[:-1] == ABSENT).all())
        due = is_time(so_far, self.last)
        self.judged.append(ScoredDecision(stream, self.question.task, decision.score, due, first))
        if decision.responds:
            self.last = int(so_far[-1])


def watch_stream(model: VideoModel, script: Script, name: str, cacher: Cacher | None = None) -> list[Watched]:
    """Watch all questions of :data:`WATCHED` from the start of a stream to its end; subjects that never come too."""
    states = States.of(script)
    session = StreamSession(model, cacher or NoCacher(), NoPruner(), DispiderMemory())
    size = session.memory.clip_frames
    watched = {}
    for task, form in WATCHED.items():
        for subject in COLOR_NAMES if task == "shape_now" else SHAPES:
            question = Question(f"{task} {subject}", 0.0, form.format(subject), task=task)
            watched[question.question_id] = Watched(question, states.answers(task, subject)[size - 1 :: size])
    for each in watched.values():
        session.watch(each.question)
    # One frame a second, with the losses of a coded video.
    frames = coded_frames(script)[::NATIVE_FPS]
    for report in session.push(frames, list(map(float, range(len(frames))))):
        for decision in report.decisions:
            watched[decision.question_id].judge(name, decision)
    session.close()
    return list(watched.values())


def auc(scores: np.ndarray, is_time: np.ndarray) -> float:
    """How often a decision to be made scores higher than one not to be made; ties count half."""
    num_true = is_time.sum()
    # The rank-sum statistic; mean ranks count ties half.
    above = rankdata(scores)[is_time].sum() - num_true * (num_true + 1) / 2
    return float(above / (num_true * (~is_time).sum()))


def balanced_accuracy(scores: np.ndarray, is_time: np.ndarray) -> float:
    """Mean of the share of responses where it was time and of silence where it was not; the threshold is 0."""
    return float(((scores[is_time] > 0).mean() + (scores[~is_time] <= 0).mean()) / 2)


def with_interval(metric, judged: Sequence[ScoredDecision], seed: int = 0) -> tuple[float, float, float]:
    """A metric of (scores, is_time) with its 95 % interval from resampled streams."""
    names, scores = np.array([j.stream for j in judged]), np.array([j.score for j in judged])
    labels = np.array([j.is_time for j in judged])
    # Decisions of one stream hang together: streams are drawn, not decisions.
    rows = [np.flatnonzero(names == name) for name in np.unique(names)]
    rng, values = np.random.default_rng(seed), []
    for _ in range(NUM_RESAMPLES):
        drawn = np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))])
        if 0 < labels[drawn].sum() < len(drawn):
            values.append(metric(scores[drawn], labels[drawn]))
    low, high = np.percentile(values, [2.5, 97.5])
    return metric(scores, labels), float(low), float(high)


def before_and_after(watched: Iterable[Watched]) -> tuple[list[bool], list[bool]]:
    """Of questions whose object comes after the first clip: whether its clip scores higher than all before, and
    whether nothing but its clip was answered so far."""
    higher, in_time = [], []
    for each in watched:
        index = next((i for i, judged in enumerate(each.judged) if judged.first), 0)
        if index:
            scores = [judged.score for judged in each.judged[: index + 1]]
            higher.append(scores[-1] > max(scores[:-1]))
            in_time.append(scores[-1] > 0 >= max(scores[:-1]))
    return higher, in_time


def table(watched: Sequence[Watched], title: str) -> Table:
    """AUC and balanced accuracy in percent, overall and per kind of question."""
    judged = [j for each in watched for j in each.judged]
    shown = Table("questions", "decisions", "time to respond", "AUC", "balanced accuracy", title=title)
    for task in ("all", *WATCHED):
        some = [j for j in judged if task in ("all", j.task)]
        cells = [
            "{:.1f} ({:.1f} to {:.1f})".format(*(100 * value for value in with_interval(metric, some)))
            for metric in (auc, balanced_accuracy)
        ]
        shown.add_row(task, str(len(some)), f"{100 * np.mean([j.is_time for j in some]):.0f} %", *cells)
    return shown


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="pocket")
    parser.add_argument("--split", default="dev", choices=("dev", "test"))
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--cacher", default="none", choices=("none", "stc"))
    arguments = parser.parse_args()
    model = Dispider(checkpoint=arguments.checkpoint).load(dtype=torch.float32)
    cacher = STCCacher() if arguments.cacher == "stc" else NoCacher()
    watched: list[Watched] = []
    for index in track(range(arguments.streams), "streams"):
        name = f"{arguments.split}-{index:04d}"
        watched += watch_stream(model, held_out_script(arguments.split, index), name, cacher)
    console = Console(width=110)
    console.print(table(watched, f"{arguments.streams} streams of {arguments.split}, cacher={arguments.cacher}"))
    higher, in_time = before_and_after(watched)
    console.print(
        f"{len(higher)} objects come after the first clip: their clip scores highest so far in "
        f"{100 * np.mean(higher):.1f} %, is the first to be answered in {100 * np.mean(in_time):.1f} %"
    )


if __name__ == "__main__":
    main()

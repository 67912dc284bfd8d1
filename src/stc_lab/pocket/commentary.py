"""How well a pocket backbone comments on held-out streams: ``python -m stc_lab.pocket.commentary --backbone livecc``.

Two shares, each with its 95 % interval clustered by stream: of the events of a stream, how many were said within two
seconds; and of the lines that were said, how many are true in every word. A line counts as said with the last frame it
is about.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from stc_lab.api import load
from stc_lab.backbones.base import VideoModel
from stc_lab.cachers.base import Cacher
from stc_lab.cachers.none import NoCacher
from stc_lab.cachers.stc import STCCacher
from stc_lab.memories.livecc import LiveCC
from stc_lab.memories.streamingvlm import StreamingVLM
from stc_lab.pocket.dataset import ensure_streams, held_out_script
from stc_lab.pocket.world.commentary import Event, SceneTracker
from stc_lab.pocket.world.script import Script
from stc_lab.pocket.world.vocabulary import COLOR_NAMES, CORNERS, NATIVE_FPS, SHAPES
from stc_lab.pruners.base import Pruner
from stc_lab.pruners.none import NoPruner
from stc_lab.pruners.stc import STCPruner
from stc_lab.results.statistics import confidence_interval
from stc_lab.session import StreamSession
from stc_lab.types import TimedText
from stc_lab.video import open_video

LATEST_S = 2.0
VERBS = {"appears": CORNERS, "moves": CORNERS, "turns": COLOR_NAMES, "leaves": None}


@dataclass(frozen=True)
class Spoken:
    """A line that is not silence: stream time it begins with and of its last frame, and what it says (``None``: it
    cannot be understood)."""

    start_s: float
    time_s: float
    text: str
    events: tuple[Event, ...] | None


def parse(text: str) -> tuple[Event, ...] | None:
    """What a line says, ``None`` where it is no line of the pocket world."""
    words, events = text.split(), []
    while words:
        # A line is a chain of events: [colour] shape [verb] [corner or colour].
        color = words.pop(0) if words[0] in COLOR_NAMES else ""
        if not words or (shape := words.pop(0)) not in SHAPES or not words:
            return None
        verb = "appears" if words[0] in CORNERS else words.pop(0)
        if verb not in VERBS or (VERBS[verb] and (not words or words[0] not in VERBS[verb])):
            return None
        argument = words.pop(0) if VERBS[verb] else ""
        place = argument if argument in CORNERS else ""
        events.append(Event(0.0, shape, verb, argument if verb == "turns" else color, place))
    return tuple(events)


def truth(script: Script, until_s: float) -> list[Event]:
    """All that happens up to ``until_s``; who is there at the start counts as having appeared."""
    watcher = SceneTracker(script)
    events = [e for t in np.arange(0.0, until_s + 1e-6, 1 / NATIVE_FPS) for e in watcher.look(float(t))]
    return [Event(e.time_s, e.shape, "appears" if e.verb == "there" else e.verb, e.color, e.place) for e in events]


def spoken_lines(commentary: Sequence[TimedText], fps: float) -> list[Spoken]:
    """Lines that are not silence."""
    said = [line for line in commentary if line.text.strip()]
    return [Spoken(line.start_s, line.stop_s - 1 / fps, line.text, parse(line.text)) for line in said]


def events_said(events: Sequence[Event], lines: Sequence[Spoken], first_s: float) -> list[bool]:
    """Which of the events were said at most ``LATEST_S`` after they happened (or after ``first_s``, the first turn)."""

    def was_said(event: Event) -> bool:
        # What happens before the first turn can be said with it at the earliest.
        latest_s = max(event.time_s, first_s) + LATEST_S
        in_time = [line for line in lines if event.time_s <= line.time_s <= latest_s]
        return any(_same(event, said) for line in in_time for said in line.events or ())

    return [was_said(event) for event in events]


def lines_true(events: Sequence[Event], lines: Sequence[Spoken]) -> list[bool]:
    """Which lines say only what happened between ``LATEST_S`` before they begin and their last frame."""

    def is_true(line: Spoken, said: Event) -> bool:
        return any(line.start_s - LATEST_S <= e.time_s <= line.time_s and _same(e, said) for e in events)

    return [line.events is not None and all(is_true(line, said) for said in line.events) for line in lines]


def _same(event: Event, said: Event) -> bool:
    return (event.shape, event.verb, event.color, event.place) == (said.shape, said.verb, said.color, said.place)


def comment(model: VideoModel, video: Path, fps: float, cacher: Cacher, pruner: Pruner) -> list[TimedText]:
    """What ``model`` says about a whole video."""
    memory = StreamingVLM(fps=fps) if model.settings.name == "streamingvlm" else LiveCC()
    session = StreamSession(model, cacher, pruner, memory)
    with open_video(video, fps=fps, in_process=True) as source:
        reports = [report for frame in source for report in session.push([frame.pixels], [frame.timestamp_s])]
    reports += session.finish()
    return [line for report in reports for line in report.commentary]


def rate(name: str, hits: Sequence[bool], streams: Sequence[str]) -> tuple[str, str, str, str]:
    """A row: name, share in percent, interval, number."""
    values = np.array(hits, dtype=float)
    (low, high), _ = confidence_interval(values, streams)
    return name, f"{100 * values.mean():.1f}", f"{100 * low:.1f} to {100 * high:.1f}", str(len(values))


def measure(model, split: str, num_streams: int, fps: float, cacher, pruner, root: Path) -> Table:
    """Both shares over the first streams of ``split``."""
    said, said_in, true, true_in = [], [], [], []
    for index, stream in enumerate(track(ensure_streams(root, split, num_streams), "streams")):
        commentary = comment(model, stream.video, fps, cacher, pruner)
        lines, script = spoken_lines(commentary, fps), held_out_script(split, index)
        events = truth(script, commentary[-1].stop_s - 1 / fps)
        # Recall of what happened, and precision of what was said.
        said += (hits := events_said(events, lines, commentary[0].stop_s - 1 / fps))
        true += (right := lines_true(events, lines))
        said_in += [stream.stream_id] * len(hits)
        true_in += [stream.stream_id] * len(right)
    table = Table(
        "measure", "percent", "95 % CI", "number", title=f"{model.settings.name}, {fps:g} fps, {num_streams} streams"
    )
    table.add_row(*rate("events said within 2 s", said, said_in))
    table.add_row(*rate("lines that are true", true, true_in))
    return table


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="livecc", choices=("livecc", "streamingvlm"))
    parser.add_argument("--checkpoint", default="pocket")
    parser.add_argument("--split", default="dev", choices=("dev", "test"))
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--fps", type=float, default=2.0)
    parser.add_argument("--stc", action="store_true", help="with STC-Cacher, and STC-Pruner at 64 tokens")
    parser.add_argument("--root", type=Path, default=Path("~/.cache/stc_lab/pocket").expanduser())
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load(arguments.backbone, dtype=torch.float32, checkpoint=arguments.checkpoint, fps=arguments.fps)
    cacher, pruner = (STCCacher(), STCPruner(budget=64)) if arguments.stc else (NoCacher(), NoPruner())
    table = measure(model, arguments.split, arguments.streams, arguments.fps, cacher, pruner, arguments.root)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()

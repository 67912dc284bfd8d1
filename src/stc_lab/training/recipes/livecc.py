"""The pocket model of LiveCC, started from that of ReKV.

Stages: vision (tower and merger), places (where a visual token lies), words (language model on labels,
in LiveCC's turns), binding (letters to options), shelves and streams (language
model on what the tower really says), speech and fluency (more of the same).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from stc_lab.training import qwen_stages
from stc_lab.training.models.qwen_vl import new_pocket_livecc
from stc_lab.training.qwen_batches import TurnMix
from stc_lab.training.qwen_language import QwenLanguage
from stc_lab.training.qwen_shelf import PairShelf
from stc_lab.training.qwen_vision import QwenVision

SIZES = {12: 72, 28: 14}
TINY = TurnMix((6, 12, 24), (0.4, 0.4, 0.2), tokens_per_batch=700, num_questions=1, most_long=200)
FEW = TurnMix((12, 24, 48), (0.4, 0.4, 0.2), tokens_per_batch=1800)
MANY = TurnMix(
    (8, 16, 32, 64, 128, 196),
    (0.06, 0.22, 0.26, 0.26, 0.1, 0.1),
    tokens_per_batch=2000,
    real_share=0.5,
    binding_share=0.05,
)


def train_vision(folder: Path, num_steps: int = 420) -> QwenVision:
    """Tower and merger, about 8 CPU minutes."""
    return qwen_stages.train_vision(new_pocket_livecc, folder, num_steps)


def train_places(folder: Path, num_steps: int = 300) -> QwenLanguage:
    """Rows and columns of visual tokens from their positions, about 1 CPU minute."""
    model = new_pocket_livecc()
    return qwen_stages.train_language("livecc", model, folder, "places", {0: TINY}, num_steps, muon_lr=0.015)


def train_words(folder: Path, num_steps: int = 360) -> QwenLanguage:
    """Turns, answers and commentary on labelled streams, few tokens a patch."""
    return qwen_stages.train_language(
        "livecc", new_pocket_livecc(), folder, "words", {0: FEW}, num_steps, start="places", final_lr_ratio=0.5
    )


def train_binding(folder: Path, num_steps: int = 240) -> QwenLanguage:
    """Letters to options in LiveCC's prompt, most of it text only."""
    mixes = {0: replace(FEW, binding_share=0.75)}
    return qwen_stages.train_language("livecc", new_pocket_livecc(), folder, "binding", mixes, num_steps, start="words")


def build_shelves(folder: Path) -> dict[int, PairShelf]:
    """What the tower says about 86 h264 streams, 0.2 GB on disk."""
    return qwen_stages.build_shelves(new_pocket_livecc, folder, SIZES)


def _on_streams(folder: Path, name: str, start: str, num_steps: int) -> QwenLanguage:
    """A stage at all budgets, half of it on what the tower says."""
    shelves = build_shelves(folder)
    model = new_pocket_livecc()
    return qwen_stages.train_language("livecc", model, folder, name, {0: MANY}, num_steps, start=start, shelves=shelves)


def train_streams(folder: Path, num_steps: int = 480) -> QwenLanguage:
    """Turns, answers and commentary on streams, about 8 CPU minutes."""
    return _on_streams(folder, "streams", "binding", num_steps)


def train_speech(folder: Path, num_steps: int = 800) -> QwenLanguage:
    """The same from a fresh schedule on: comments take longer to learn than answers. About 14 CPU minutes."""
    return _on_streams(folder, "speech", "streams", num_steps)


def train_fluency(folder: Path, num_steps: int = 900) -> QwenLanguage:
    """And once more, about 15 CPU minutes."""
    return _on_streams(folder, "fluency", "speech", num_steps)


def export(folder: Path) -> Path:
    """Write the checkpoint of ``backbone=livecc``."""
    return qwen_stages.export("livecc", new_pocket_livecc(), folder)


STAGES = {
    "vision": train_vision,
    "places": train_places,
    "words": train_words,
    "binding": train_binding,
    "shelves": build_shelves,
    "streams": train_streams,
    "speech": train_speech,
    "fluency": train_fluency,
    "export": export,
}

"""The pocket model of StreamingVLM: a vision part of its own, a language part that starts from that of LiveCC's pocket.

Stages: vision and sharper (tower and merger), shelves, then streams, longer, speech and fluency (language model on
labels and on what the tower really says, in rounds on three axes, of which long streams have lost the oldest).
"""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from stc_lab.backbones.checkpoints import POCKET_ROOT
from stc_lab.training import qwen_stages
from stc_lab.training.models.qwen_vl import new_pocket_streamingvlm
from stc_lab.training.qwen_batches import TurnMix
from stc_lab.training.qwen_language import QwenLanguage
from stc_lab.training.qwen_shelf import PairShelf
from stc_lab.training.qwen_vision import QwenVision

SIZES = {12: 48, 28: 14}
FEW = TurnMix((12, 24, 48), (0.3, 0.4, 0.3), tokens_per_batch=1800)
MANY = TurnMix((8, 16, 32, 64, 128, 196), (0.06, 0.22, 0.26, 0.26, 0.1, 0.1), tokens_per_batch=2000, real_share=0.5)


def train_vision(folder: Path, num_steps: int = 320) -> QwenVision:
    """Tower and merger, about 5 CPU minutes."""
    return qwen_stages.train_vision(new_pocket_streamingvlm, folder, num_steps)


def sharpen_vision(folder: Path, num_steps: int = 220) -> QwenVision:
    """The same from a fresh schedule on, about 3 CPU minutes."""
    return qwen_stages.train_vision(new_pocket_streamingvlm, folder, num_steps, name="sharper", start="vision")


def build_shelves(folder: Path) -> dict[int, PairShelf]:
    """What the tower says about 62 h264 streams, 0.15 GB on disk."""
    return qwen_stages.build_shelves(new_pocket_streamingvlm, folder, SIZES, "sharper")


def _start() -> PreTrainedModel:
    return qwen_stages.with_language_of(new_pocket_streamingvlm(), POCKET_ROOT / "livecc")


def train_streams(folder: Path, num_steps: int = 300) -> QwenLanguage:
    """Rounds at all budgets, few tokens at first, then half of it on what the tower says."""
    mixes = {0: FEW, num_steps // 3: MANY}
    return qwen_stages.train_language(
        "streamingvlm", _start(), folder, "streams", mixes, num_steps, shelves=build_shelves(folder)
    )


def _again(folder: Path, name: str, start: str, num_steps: int) -> QwenLanguage:
    """The same from a fresh schedule on."""
    return qwen_stages.train_language(
        "streamingvlm", _start(), folder, name, {0: MANY}, num_steps, start=start, shelves=build_shelves(folder)
    )


def train_longer(folder: Path, num_steps: int = 220) -> QwenLanguage:
    """About 4 CPU minutes."""
    return _again(folder, "longer", "streams", num_steps)


def train_speech(folder: Path, num_steps: int = 800) -> QwenLanguage:
    """Comments take longer to learn than answers: about 13 CPU minutes."""
    return _again(folder, "speech", "longer", num_steps)


def train_fluency(folder: Path, num_steps: int = 900) -> QwenLanguage:
    """And about 15 more."""
    return _again(folder, "fluency", "speech", num_steps)


def export(folder: Path) -> Path:
    """Write the checkpoint of ``backbone=streamingvlm``."""
    return qwen_stages.export("streamingvlm", new_pocket_streamingvlm(), folder, stages=("sharper", "fluency"))


STAGES = {
    "vision": train_vision,
    "sharper": sharpen_vision,
    "shelves": build_shelves,
    "streams": train_streams,
    "longer": train_longer,
    "speech": train_speech,
    "fluency": train_fluency,
    "export": export,
}

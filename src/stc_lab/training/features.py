"""What the trained tower really says about real h264 streams, kept on disk for the last language stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stc_lab.pocket.world.codec import coded_frames
from stc_lab.pocket.world.questions import sample_questions
from stc_lab.pocket.world.script import Script, sample_script
from stc_lab.pocket.world.vocabulary import NATIVE_FPS
from stc_lab.training.batches import (
    CELLS,
    Mix,
    QuestionEncoder,
    StreamBatch,
    gather_batch,
    label_stream,
    mix_at,
)
from stc_lab.training.vision import VisionModel

FIRST_SEED = 1 << 42


@dataclass(frozen=True)
class Shelf:
    """Streams of one duration: ``tokens`` float16 [N, T, 196, D] on disk; stream ``i`` has seed FIRST_SEED + i."""

    duration_s: int
    tokens: np.ndarray

    def script(self, index: int) -> Script:
        """The script that stream ``index`` was drawn from."""
        return sample_script(FIRST_SEED + index, self.duration_s)


def array_on_disk(path: Path, shape: tuple[int, ...], dtype: type = np.float16) -> np.ndarray:
    """The array in ``path`` as an earlier call left it, else a new one."""
    mode = "r+" if path.exists() else "w+"
    return np.lib.format.open_memmap(path, mode=mode, dtype=dtype, shape=None if mode == "r+" else shape)


def undone(path: Path, count: int) -> Iterator[int]:
    """Numbers below ``count`` that are still to be done; ``path`` takes one as done when the next is asked for."""
    for index in range(int(path.read_text()) if path.exists() else 0, count):
        yield index
        path.write_text(str(index + 1))


@torch.inference_mode()
def build_shelf(vision: VisionModel, duration_s: int, num_streams: int, folder: Path, first: int = 0) -> Shelf:
    """Draw, encode, decode and look at ``num_streams`` streams; goes on where an earlier call was stopped."""
    dim = vision.code.place.shape[-1]
    shape = (num_streams, duration_s, CELLS, dim)
    tokens = array_on_disk(folder / f"shelf{duration_s}.npy", shape)
    shelf = Shelf(duration_s, tokens)
    for index in undone(folder / f"shelf{duration_s}.done", num_streams):
        tokens[index] = see_stream(vision, shelf.script(index)).numpy()
    return shelf


def see_stream(vision: VisionModel, script: Script) -> Tensor:
    """Visual tokens [T, 196, D] (float16) of a stream at one frame a second, through real h264."""
    x = vision.tower.embeddings(coded_pixels(script))
    for layer in vision.tower.encoder.layers:
        x = layer(x, None)
    return vision.pool(vision.projector(x)).half()


def coded_pixels(script: Script) -> Tensor:
    """Normalised pixels [T, 3, H, W] of a stream at one frame a second, through real h264."""
    frames = np.stack(coded_frames(script)[::NATIVE_FPS])
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


class TokenBatches(Dataset):
    """Batches of streams from the shelves with fresh questions and fresh choices of cells."""

    def __init__(self, shelves: dict[int, Shelf], encoder: QuestionEncoder, mixes: dict[int, Mix], seed: int) -> None:
        """``mixes``: see :func:`stc_lab.training.batches.mix_at`."""
        self.shelves, self.encoder, self.mixes, self.seed = shelves, encoder, mixes, seed

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, step: int) -> tuple[Tensor, StreamBatch]:
        """Tokens [S, T, B, D] and their batch."""
        rng = np.random.default_rng([self.seed, step])
        mix = mix_at(self.mixes, step)
        duration, budget, size = mix.draw(rng)
        shelf = self.shelves[duration]
        chosen = rng.integers(len(shelf.tokens), size=size)
        scripts = [shelf.script(int(i)) for i in chosen]
        labels = [label_stream(script) for script in scripts]
        questions = [sample_questions(script, mix.num_questions, step + 1, emphasis=mix.emphasis) for script in scripts]
        batch = gather_batch(rng, labels, questions, self.encoder, budget, torch.from_numpy(chosen))
        places = zip(chosen, batch.cells.numpy(), strict=True)
        tokens = np.stack([np.take_along_axis(shelf.tokens[i], cells[..., None], 1) for i, cells in places])
        return torch.from_numpy(tokens).float(), batch

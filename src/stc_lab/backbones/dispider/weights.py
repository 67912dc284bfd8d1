"""Official names of Dispider's weights, and the strict comparison with the model."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from stc_lab.backbones.dispider.model import Rows
from stc_lab.backbones.hf_loading import require_fit

COMPRESSOR = "model.compressor.compressor."
PREFIXES = {
    f"{COMPRESSOR}model.vision_tower.vision_tower.vision_model.": "vision.",
    f"{COMPRESSOR}model.mm_projector.": "mm_projector.",
    f"{COMPRESSOR}silent_head.": "silent_head.",
    f"{COMPRESSOR}model.": "compressor.model.",
    "model.compress_projector.": "compress_projector.",
    "model.clip_projector.": "clip_projector.",
    "lm_head.": "language.lm_head.",
    "model.": "language.model.",
}
"""Official prefix to ours; the first that fits counts."""

UNUSED = (f"{COMPRESSOR}lm_head.weight", ".embeddings.position_ids", ".rotary_emb.inv_freq")
"""Names (or ends of names) that a file may hold and no output depends on: the compressor never speaks."""

Shapes = dict[str, tuple[int, ...]]


def our_name(official: str) -> str:
    """Our name of an official weight; names that are not known stay as they are."""
    prefix = next((prefix for prefix in PREFIXES if official.startswith(prefix)), None)
    return official if prefix is None else PREFIXES[prefix] + official.removeprefix(prefix)


def official_name(ours: str) -> str:
    """The inverse of :func:`our_name`."""
    official, prefix = max(((o, p) for o, p in PREFIXES.items() if ours.startswith(p)), key=lambda pair: len(pair[1]))
    return official + ours.removeprefix(prefix)


class WeightFiles:
    """The safetensors files of a checkpoint folder, by our names.

    The compressor's weights are among the root's shards; only where they are not, those in ``compressor_folder``
    are taken.
    """

    def __init__(self, folder: Path, compressor_folder: Path) -> None:
        self._where = _official_names(folder, "")
        if not any(name.startswith(COMPRESSOR) for name in self._where):
            self._where |= _official_names(compressor_folder, COMPRESSOR)
        self._where = {name: at for name, at in self._where.items() if not name.endswith(UNUSED)}

    def shapes(self) -> Shapes:
        """Shape of every weight; reads only the heads of the files."""
        shapes: Shapes = {}
        for file, names in self._by_file().items():
            with safe_open(file, "pt") as opened:
                shapes |= {our_name(name): tuple(opened.get_slice(stored).get_shape()) for name, stored in names}
        return shapes

    def tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """All weights in ``dtype`` on the CPU."""
        tensors: dict[str, Tensor] = {}
        for file, names in self._by_file().items():
            with safe_open(file, "pt", device="cpu") as opened:
                tensors |= {our_name(name): opened.get_tensor(stored).to(dtype) for name, stored in names}
        return tensors

    def _by_file(self) -> dict[Path, list[tuple[str, str]]]:
        files: dict[Path, list[tuple[str, str]]] = {}
        for name, (file, stored) in self._where.items():
            files.setdefault(file, []).append((name, stored))
        return files


def read_rows(name: str, shapes: Shapes) -> Rows:
    """What the weights alone know. Raises ``ValueError`` where an embedding is missing."""
    rows = {}
    for part in ("language", "compressor"):
        key = f"{part}.model.embed_tokens.weight"
        if key not in shapes:
            require_fit(name, missing=[official_name(key)])
        rows[part] = shapes[key][0]
    depths = {part: _depth(shapes, part) for part in ("compress_projector", "clip_projector")}
    return Rows(**rows, **depths)


def require_match(name: str, found: Shapes, expected: Shapes) -> None:
    """Raise ``ValueError`` that lists missing, unexpected and misshapen weights by their official names."""
    misshapen = {key for key in expected.keys() & found.keys() if expected[key] != found[key]}
    require_fit(
        name,
        missing=[official_name(key) for key in expected.keys() - found.keys()],
        unexpected=found.keys() - expected.keys(),
        mismatched=[official_name(key) for key in misshapen],
    )


def _depth(shapes: Shapes, part: str) -> int | None:
    """Linear layers of a projector by the names of its weights: ``part.weight``, or ``part.0.weight``, ..."""
    if f"{part}.weight" in shapes:
        return None
    return sum(key.startswith(f"{part}.") and key.endswith(".weight") for key in shapes)


def _official_names(folder: Path, prefix: str) -> dict[str, tuple[Path, str]]:
    """Official name -> file and name in that file."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        stored = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {prefix + name: (folder / file, name) for name, file in stored.items()}
    names: dict[str, tuple[Path, str]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            names |= {prefix + name: (file, name) for name in opened.keys()}
    return names

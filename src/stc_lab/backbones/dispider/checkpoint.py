"""Dispider checkpoints: official names of the weights, loading, saving. Runs no code of the checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import interpolate

from stc_lab.backbones.checkpoints import LAB_FILE, Checkpoint, require_fit, stop_ids_of
from stc_lab.backbones.dispider.networks import (
    COMPRESSOR_FOLDERS,
    DispiderModel,
    DispiderSizes,
    Rows,
    compressor_folder,
    read_sizes,
)
from stc_lab.language.chat import LoadedText
from stc_lab.vision.tower import FramePreprocessor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END, SILENT = "<|im_end|>", "<keep_silent>"
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
        # Some releases keep the compressor in a folder of its own.
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


@dataclass(frozen=True)
class SquarePreprocessor:
    """Squash a frame to its shorter side (nearest neighbour), then resize and normalise as CLIP's processor.

    The aspect ratio is not kept and nothing is cut off: after the squash CLIP's crop has nothing left to crop.
    """

    pixels: FramePreprocessor

    @classmethod
    def from_config(cls, config: Mapping[str, Any], image_size: int) -> SquarePreprocessor:
        """From the content of CLIP's ``preprocessor_config.json``; the size follows from the tower."""
        return cls(
            FramePreprocessor(
                size=(image_size, image_size),
                mean=tuple(config["image_mean"]),
                std=tuple(config["image_std"]),
                rescale_factor=float(config.get("rescale_factor", 1 / 255)),
                resample=int(config.get("resample", 3)),
            )
        )

    def __call__(self, frames: Sequence[np.ndarray], device: torch.device, dtype: torch.dtype) -> Tensor:
        """Frames, uint8 [H, W, 3] each -> pixels [F, 3, image size, image size]."""
        return self.pixels([square(frame) for frame in frames], device, dtype)


def square(frame: np.ndarray) -> np.ndarray:
    """One frame, uint8 [H, W, 3] -> [S, S, 3] with S the shorter side; every pixel is one of the frame's."""
    if frame.ndim != 3 or frame.shape[0] == frame.shape[1]:
        return frame
    side = min(frame.shape[:2])
    return frame[_nearest(frame.shape[0], side)][:, _nearest(frame.shape[1], side)]


def _nearest(size: int, new_size: int) -> np.ndarray:
    """Indices that torch's nearest neighbour takes, by sending the indices themselves through it."""
    indices = torch.arange(size, dtype=torch.float32)[None, None]
    return interpolate(indices, size=new_size)[0, 0].long().numpy()


@dataclass(frozen=True)
class LoadedDispider(LoadedText):
    """A loaded checkpoint. ``stop_ids`` end an answer; ``silent_id``: the answer that says there is none."""

    model: DispiderModel
    sizes: DispiderSizes
    tokenizer: PreTrainedTokenizerBase
    compressor_tokenizer: PreTrainedTokenizerBase
    preprocessor: SquarePreprocessor
    stop_ids: frozenset[int]
    silent_id: int | None

    def compressor_ids(self, text: str) -> list[int]:
        """Ids of ``text`` for the compressor, without additions."""
        return self.compressor_tokenizer(text, add_special_tokens=False).input_ids


def load_dispider(files: Checkpoint, dtype: torch.dtype) -> LoadedDispider:
    """Weights on the CPU in ``dtype``; no network.

    Raises ``ValueError`` when a weight is missing, left over or of another shape, or when a tokenizer is missing.
    """
    sizes = read_sizes(files)
    inner = compressor_folder(files)
    tokenizer = _tokenizer(files.name, files.folder)
    model = _load_model(files, sizes, inner, dtype)
    compressor_tokenizer = _tokenizer(files.name, inner)
    _check_words(files.name, tokenizer, model.language.config.vocab_size)
    _check_words(files.name, compressor_tokenizer, model.compressor["model"].config.vocab_size)
    generation = files.json("generation_config.json") or {}
    ends = (generation.get("eos_token_id"), tokenizer.eos_token_id, _known_id(tokenizer, END))
    return LoadedDispider(
        model=model,
        sizes=sizes,
        tokenizer=tokenizer,
        compressor_tokenizer=compressor_tokenizer,
        preprocessor=SquarePreprocessor.from_config(sizes.pixels, sizes.vision["image_size"]),
        stop_ids=stop_ids_of(*ends),
        silent_id=_known_id(tokenizer, SILENT),
    )


def _load_model(files: Checkpoint, sizes: DispiderSizes, inner: Path, dtype: torch.dtype) -> DispiderModel:
    weights = WeightFiles(files.folder, inner)
    # 1. What the files hold, from their heads alone.
    shapes = weights.shapes()
    rows = read_rows(files.name, shapes)
    # 2. The model without memory, to compare every name and shape with it before anything is read.
    with torch.device("meta"):
        model = DispiderModel(sizes, rows)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    is_tied = model.language.config.tie_word_embeddings
    if is_tied:
        for known in (expected, shapes):
            known.pop("language.lm_head.weight", None)
    require_match(files.name, shapes, expected)
    # 3. The weights themselves, and the constants that no file holds.
    model.load_state_dict(weights.tensors(dtype), assign=True, strict=not is_tied)
    if is_tied:
        model.language.lm_head.weight = model.language.model.embed_tokens.weight
    _fill_buffers(model)
    return model.eval().requires_grad_(False)


def _fill_buffers(model: DispiderModel) -> None:
    """Give the constants that no file holds their values: only the shapes of the model were built."""
    with torch.device("cpu"):
        for text in (model.language.model, model.compressor["model"]):
            text.rotary_emb = type(text.rotary_emb)(text.config)
        embeddings = model.vision.embeddings
        positions = torch.arange(embeddings.num_positions).unsqueeze(0)
        embeddings.register_buffer("position_ids", positions, persistent=False)


def _tokenizer(name: str, folder: Path) -> PreTrainedTokenizerBase:
    """From ``tokenizer.json``, else from Qwen2's vocabulary and merges."""
    from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

    if (folder / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
    raise ValueError(f"backbone.checkpoint={name}: tokenizer.json (or vocab.json and merges.txt) not found in {folder}")


def _check_words(name: str, tokenizer: PreTrainedTokenizerBase, num_rows: int) -> None:
    """Raise ``ValueError`` when a tokenizer has words that its network has no embedding for."""
    if len(tokenizer) > num_rows:
        raise ValueError(
            f"backbone.checkpoint={name}: a tokenizer has {len(tokenizer)} words, its network {num_rows} embeddings"
        )


def _known_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int | None:
    return tokenizer.get_vocab().get(token)


def save_dispider(
    folder: Path,
    model: DispiderModel,
    sizes: DispiderSizes,
    tokenizer: PreTrainedTokenizerBase,
    compressor_tokenizer: PreTrainedTokenizerBase | None = None,
    lab_settings: Mapping[str, Any] | None = None,
) -> Path:
    """Weights (one file, all networks), settings and tokenizers; ``lab_settings``: sizes that suit the checkpoint.

    Without ``compressor_tokenizer`` both networks share one.
    """
    inner = folder / COMPRESSOR_FOLDERS[0]
    (inner / "vision_tower").mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if model.language.config.tie_word_embeddings:
        del state["language.lm_head.weight"]
    weights = {official_name(name): tensor for name, tensor in state.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)
    (compressor_tokenizer or tokenizer).save_pretrained(inner)
    _write(folder / "config.json", {**sizes.language, "model_type": "long"})
    _write(inner / "config.json", _compressor_settings(sizes))
    _write(inner / "vision_tower" / "config.json", {**sizes.vision, "model_type": "clip_vision_model"})
    _write(inner / "vision_tower" / "preprocessor_config.json", sizes.pixels)
    if lab_settings:
        _write(folder / LAB_FILE, {"dispider": lab_settings})
    return folder


def _compressor_settings(sizes: DispiderSizes) -> dict[str, Any]:
    return {
        **sizes.compressor,
        "model_type": "stream_ground_qwen",
        "perception_vision_tower": "vision_tower",
        "perception_select_layer": sizes.select_layer,
        "perception_select_feature": "patch",
        "mm_projector_type": "pool",
        "resolution": sizes.tokens_per_frame,
        "pool_num": sizes.pool_num,
    }


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(content), indent=2) + "\n", encoding="utf-8")

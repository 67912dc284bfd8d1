"""Loads a Dispider checkpoint: weights, two tokenizers, pixel constants. Runs no code of the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from stc_lab.backbones.checkpoints import Checkpoint
from stc_lab.backbones.dispider.model import DispiderModel
from stc_lab.backbones.dispider.preprocessing import SquarePreprocessor
from stc_lab.backbones.dispider.sizes import DispiderSizes, compressor_folder, read_sizes
from stc_lab.backbones.dispider.weights import WeightFiles, read_rows, require_match
from stc_lab.backbones.hf_loading import LoadedText, stop_ids_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END, SILENT = "<|im_end|>", "<keep_silent>"


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
    return LoadedDispider(
        model=model,
        sizes=sizes,
        tokenizer=tokenizer,
        compressor_tokenizer=compressor_tokenizer,
        preprocessor=SquarePreprocessor.from_config(sizes.pixels, sizes.vision["image_size"]),
        stop_ids=_stop_ids(files, tokenizer),
        silent_id=_known_id(tokenizer, SILENT),
    )


def _load_model(files: Checkpoint, sizes: DispiderSizes, inner: Path, dtype: torch.dtype) -> DispiderModel:
    weights = WeightFiles(files.folder, inner)
    shapes = weights.shapes()
    rows = read_rows(files.name, shapes)
    with torch.device("meta"):
        model = DispiderModel(sizes, rows)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    is_tied = model.language.config.tie_word_embeddings
    if is_tied:
        for known in (expected, shapes):
            known.pop("language.lm_head.weight", None)
    require_match(files.name, shapes, expected)
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


def _stop_ids(files: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The end of a turn, and the end tokens that tokenizer and generation config name."""
    named = (files.json("generation_config.json") or {}).get("eos_token_id")
    return stop_ids_of(named, tokenizer.eos_token_id, _known_id(tokenizer, END))


def _known_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int | None:
    return tokenizer.get_vocab().get(token)

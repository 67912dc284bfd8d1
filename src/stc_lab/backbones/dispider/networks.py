"""The networks of Dispider (arXiv:2501.03218) as one module, and what the files of a checkpoint say of their sizes.

The small model perceives clips, summarises them, and reads what a question is judged by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, Qwen2Config, Qwen2ForCausalLM, Qwen2Model

from stc_lab.backbones.checkpoints import Checkpoint
from stc_lab.language import TextDecoder
from stc_lab.language.attention import attend, grouped, hidden, ungrouped
from stc_lab.language.caches.base import DecoderShape, Step
from stc_lab.language.caches.growing import GrowingStore
from stc_lab.measure.flops import decoder_flops, projector_flops
from stc_lab.memories.dispider import ANSWERED, QUESTION, TO_DO, Clip, ClipFrame, Memories, Piece, Summary, time_span

NAMES_OF_A_KIND = ("model_type", "architectures", "auto_map", "transformers_version", "torch_dtype", "dtype")
COMPRESSOR_FOLDERS = ("perception_decision", "stream_compressor")
"""Folder with configuration and tokenizer of the compressor; the second is the name of the first release."""

CLIP_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
}
"""The tower of the first release, which names it but does not describe it."""
CLIP_PIXELS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
}


@dataclass(frozen=True)
class DispiderSizes:
    """Settings of the four networks as plain dictionaries, and how they are joined.

    ``select_layer``: index into the tower's hidden states; ``pool_num``: pooled tokens (blocks) per frame;
    ``uses_image_markers``: whether the prompt marks where the video begins and ends.
    """

    language: Mapping[str, Any]
    compressor: Mapping[str, Any]
    vision: Mapping[str, Any]
    pixels: Mapping[str, Any]
    select_layer: int
    pool_num: int
    uses_image_markers: bool

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the tokens of a frame: patches joined two by two."""
        side = self.vision["image_size"] // self.vision["patch_size"] // 2
        return side, side

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of a frame after neighbouring patches were joined."""
        return self.grid[0] * self.grid[1]

    @property
    def mixed_size(self) -> int:
        """Width of a token made of four patches."""
        return 4 * self.vision["hidden_size"]


def compressor_folder(files: Checkpoint) -> Path:
    """The folder of the compressor. Raises ``ValueError`` where there is none."""
    for name in COMPRESSOR_FOLDERS:
        if (files.folder / name / "config.json").is_file():
            return files.folder / name
    names = " or ".join(f"{name}/config.json" for name in COMPRESSOR_FOLDERS)
    raise ValueError(f"backbone.checkpoint={files.name}: {names} not found in {files.folder}")


def read_sizes(files: Checkpoint) -> DispiderSizes:
    """Raises ``ValueError`` for another kind of model, or for a part that this lab does not build."""
    language = files.json("config.json") or {}
    if language.get("model_type") != "long":
        kind = language.get("model_type")
        raise ValueError(f"backbone.checkpoint={files.name}: model_type is {kind}, backbone=dispider needs long")
    inner = Checkpoint(files.name, compressor_folder(files))
    compressor = inner.json("config.json") or {}
    vision = _vision(files.name, compressor, inner.json("vision_tower/config.json"))
    sizes = DispiderSizes(
        language=language,
        compressor=compressor,
        vision=vision,
        pixels=inner.json("vision_tower/preprocessor_config.json", "preprocessor_config.json") or CLIP_PIXELS,
        select_layer=int(_either(compressor, "select_layer", -1)),
        pool_num=int(compressor.get("pool_num") or 1),
        uses_image_markers=bool(language.get("mm_use_im_start_end", False)),
    )
    _check(files.name, sizes)
    return sizes


def _either(compressor: Mapping[str, Any], key: str, default: Any) -> Any:
    """A setting of the tower under its newer or its older name."""
    for name in (f"perception_{key}", f"mm_vision_{key}"):
        if compressor.get(name) is not None:
            return compressor[name]
    return default


def _vision(name: str, compressor: Mapping[str, Any], described: dict[str, Any] | None) -> dict[str, Any]:
    if described is not None:
        return described.get("vision_config", described)
    tower = str(compressor.get("perception_vision_tower") or compressor.get("mm_vision_tower") or "")
    if "clip-vit-large-patch14" in tower and "336" not in tower:
        return dict(CLIP_LARGE)
    raise ValueError(
        f"backbone.checkpoint={name}: its vision tower '{tower}' is not known here; put the tower's config.json and "
        f"preprocessor_config.json into {COMPRESSOR_FOLDERS[0]}/vision_tower"
    )


def _check(name: str, sizes: DispiderSizes) -> None:
    """Raise ``ValueError`` for what cannot be built."""
    side = sizes.vision["image_size"] // sizes.vision["patch_size"]
    block_side = isqrt(sizes.pool_num)
    resolution = sizes.compressor.get("resolution", sizes.tokens_per_frame)
    wrong = None
    if sizes.compressor.get("mm_projector_type", "pool") != "pool":
        wrong = f"mm_projector_type={sizes.compressor['mm_projector_type']}, only pool is supported"
    elif _either(sizes.compressor, "select_feature", "patch") != "patch":
        wrong = "the tower's class token is among its features, only patch features are supported"
    elif side % 2:
        wrong = f"{side}x{side} patches cannot be joined two by two"
    elif resolution != sizes.tokens_per_frame:
        wrong = f"resolution={resolution}, but the tower gives {sizes.tokens_per_frame} tokens"
    elif block_side**2 != sizes.pool_num or sizes.grid[0] % block_side:
        wrong = f"pool_num={sizes.pool_num} does not divide {sizes.grid[0]}x{sizes.grid[1]} tokens into square blocks"
    if wrong:
        raise ValueError(f"backbone.checkpoint={name}: {wrong}")


@dataclass(frozen=True)
class Rows:
    """What only the weights know: embedding rows, and linear layers of the two projectors of the language model.

    ``None`` for a projector: a plain linear layer that is not inside a list.
    """

    language: int
    compressor: int
    compress_projector: int | None = 2
    clip_projector: int | None = 2


class DispiderModel(nn.Module):
    """``language`` reads, ``compressor`` remembers and decides, ``vision`` sees; projectors between them.

    ``silent_head``: the score of responding now, positive for yes despite its name.
    """

    def __init__(self, sizes: DispiderSizes, rows: Rows) -> None:
        super().__init__()
        language = Qwen2Config(**_settings(sizes.language, rows.language))
        compressor = Qwen2Config(**_settings(sizes.compressor, rows.compressor))
        self.language = Qwen2ForCausalLM(language)
        self.compressor = nn.ModuleDict({"model": Qwen2Model(compressor)})
        self.vision = CLIPVisionModel(CLIPVisionConfig(**_settings(sizes.vision)))
        self.mm_projector = nn.ModuleDict({"mlp": projector(sizes.mixed_size, compressor.hidden_size, 2)})
        self.silent_head = nn.Linear(compressor.hidden_size, 1, bias=False)
        self.compress_projector = projector(compressor.hidden_size, language.hidden_size, rows.compress_projector)
        self.clip_projector = projector(sizes.mixed_size, language.hidden_size, rows.clip_projector)


def projector(in_size: int, out_size: int, depth: int | None) -> nn.Module:
    """``depth`` linear layers with GELU between them; ``None``: one linear layer alone; 0: nothing."""
    if depth is None:
        return nn.Linear(in_size, out_size)
    if depth == 0:
        return nn.Identity()
    layers: list[nn.Module] = [nn.Linear(in_size, out_size)]
    for _ in range(depth - 1):
        layers += [nn.GELU(), nn.Linear(out_size, out_size)]
    return nn.Sequential(*layers)


def mix(features: Tensor) -> Tensor:
    """Patches of a square grid [F, T, C] -> each two by two neighbours side by side in one token [F, T/4, 4C]."""
    num_frames, num_patches, width = features.shape
    half = round(num_patches**0.5) // 2
    blocks = features.reshape(num_frames, half, 2, half, 2, width).transpose(2, 3)
    return blocks.reshape(num_frames, half * half, 4 * width)


def pool(mixed: Tensor, pool_num: int) -> Tensor:
    """Means of ``pool_num`` square blocks of each frame: [F, N, D] -> [F * pool_num, D], frame by frame."""
    num_frames, num_tokens, width = mixed.shape
    blocks, side = round(pool_num**0.5), round(num_tokens**0.5)
    grid = mixed.view(num_frames, blocks, side // blocks, blocks, side // blocks, width)
    return grid.mean(dim=(2, 4)).view(num_frames * pool_num, width)


def _settings(config: Mapping[str, Any], num_rows: int | None = None) -> dict[str, Any]:
    """Settings without the names of model classes that need code of their own."""
    settings = {key: value for key, value in config.items() if key not in NAMES_OF_A_KIND}
    return settings if num_rows is None else {**settings, "vocab_size": num_rows}


CLIP_TEXT = "This contains a clip sampled in {start} to {end} seconds"


class Compressor:
    """``decoder``: the language network with its head in place of one over words.

    ``project``: tokens of four patches -> its embeddings; ``for_language``: its states -> embeddings of the large
    model; ``pool_num``: means of a frame that it is shown, and states that are kept of it; ``num_special_tokens``: of
    the tower.
    """

    def __init__(
        self,
        decoder: TextDecoder,
        token_ids: Callable[[str], list[int]],
        project: nn.Sequential,
        for_language: nn.Module | None = None,
        pool_num: int = 1,
        num_special_tokens: int = 1,
    ) -> None:
        self.decoder, self.for_language = decoder, for_language
        self._token_ids, self._project = token_ids, project
        self._pool_num, self._num_special_tokens = pool_num, num_special_tokens

    def mix(self, features: Tensor) -> Tensor:
        """Features [T, C] of the tower -> tokens [N, 4C]: patches joined two by two."""
        return mix(features[None, self._num_special_tokens :])[0]

    def perceive(
        self, frames: Sequence[ClipFrame], prune: bool = False, indicator_mask: bool = False
    ) -> tuple[Clip, int]:
        """The clip that ``frames`` make, and the FLOPs it took (section 3.2).

        The states at the block means become the clip's memory, the last state its indicator. Attention is causal, as
        with flash attention in the official setting; ``indicator_mask``: the global mean sees only the block means
        and itself, as in the released code under SDPA. ``prune``: leave out of "all tokens" those that the pruner
        dropped; the means are taken over all of them.
        """
        # 1. The time of the clip as text, then all tokens, block means, one global mean.
        start_s, end_s = time_span(frames)
        ids = self._token_ids(CLIP_TEXT.format(start=round(start_s), end=round(end_s)))
        mixed = torch.stack([frame.mixed for frame in frames])
        tokens = mixed.flatten(0, 1)
        means = (pool(mixed, self._pool_num), tokens.mean(dim=0, keepdim=True))
        if prune:
            # A variant of the lab: the small model leaves out what the pruner dropped.
            tokens = torch.cat([frame.mixed[frame.kept.positions] for frame in frames])
        visual = self._project(torch.cat((tokens, *means)))
        # 2. One pass, of which the states at the means are kept.
        num_memory, shape = len(frames) * self._pool_num, self.decoder.shape
        store = IndicatorStore(shape, num_memory) if indicator_mask else GrowingStore(shape)
        states = self.decoder(torch.cat((self.decoder.embed(ids), visual)), store)
        memory, indicator = states[-num_memory - 1 : -1].clone(), states[-1].clone()
        kept = torch.cat([frame.kept.tokens for frame in frames])
        clip = Clip(start_s, end_s, frames[-1].time_s, len(frames), kept, memory, indicator)
        width = self.decoder.sizes.hidden_size
        flops = projector_flops(len(visual), self._project[0].in_features, width)
        return clip, flops + decoder_flops(self.decoder.sizes, len(ids) + len(visual))

    def summary(self, clips: Sequence[Clip]) -> tuple[Tensor, int]:
        """One summarising state per clip [clips, C] (the global memory), and the FLOPs it took."""
        states = [*(clip.memory for clip in clips), *(clip.indicator[None] for clip in clips)]
        if not states:
            return self.decoder.embed([]), 0
        embeds = torch.cat(states)
        hidden_states = self.decoder(embeds, GrowingStore(self.decoder.shape))
        return hidden_states[-len(clips) :].clone(), decoder_flops(self.decoder.sizes, len(embeds))

    def embeds(self, pieces: Sequence[Piece], text: str, clips: Sequence[Clip]) -> tuple[Tensor, int]:
        """Embeddings [T, C] of a sequence about the question ``text``, and the FLOPs of the summaries in it."""
        parts, flops = [], 0
        for piece in pieces:
            if isinstance(piece, Summary):
                part, cost = self.summary(clips[piece.start : piece.stop])
                flops += cost
            elif isinstance(piece, Memories):
                part = torch.cat([clip.memory for clip in clips[piece.start : piece.stop]])
            else:
                words = {QUESTION: text + TO_DO, ANSWERED: ANSWERED, TO_DO: TO_DO}[piece]
                part = self.decoder.embed(self._token_ids(words))
            parts.append(part)
        return torch.cat(parts), flops


class IndicatorStore:
    """One pass of causal attention in which the last token sees only the ``num_visible`` before it and itself: the
    mask that the released code applies under SDPA, for comparison with numbers made that way."""

    num_context = 0

    def __init__(self, shape: DecoderShape, num_visible: int) -> None:
        self._shape = shape
        self._num_visible = num_visible
        self._num_tokens = 0

    def begin(self, step: Step) -> None:
        """There is one pass, and positions count from 0."""
        self._num_tokens = step.num_tokens

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        rotation = self._shape.rotary.span(0, self._num_tokens, keys)
        rotated, values = rotation(keys).transpose(0, 1), values.transpose(0, 1)
        q = grouped(rotation(queries), self._shape.num_kv_heads)
        return ungrouped(attend(q, rotated, values, self._mask(queries), self._shape.scale))

    def _mask(self, like: Tensor) -> Tensor:
        size = (self._num_tokens, self._num_tokens)
        mask = torch.full(size, hidden(like.dtype), dtype=like.dtype, device=like.device).triu_(1)
        mask[-1, : -1 - self._num_visible] = hidden(like.dtype)
        return mask

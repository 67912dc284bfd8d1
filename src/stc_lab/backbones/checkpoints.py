"""Where a checkpoint lies (the shipped pocket models, a folder, or an id on the Hugging Face Hub), and its loading."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

POCKET_ROOT = Path(__file__).resolve().parents[1] / "pocket" / "checkpoints"
PROCESSOR_FILES = ("video_preprocessor_config.json", "preprocessor_config.json")
LAB_FILE = "stc_lab.json"
"""Optional file of a checkpoint folder with sizes that suit it: ``{"rekv": {"n_local": 3136, "topk": 16}}``."""

HUB_SIZES_GB = {
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": 1.8,
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": 16.1,
    "llava-hf/llava-onevision-qwen2-72b-ov-hf": 147,
    "chenjoya/LiveCC-7B-Base": 16.6,
    "chenjoya/LiveCC-7B-Instruct": 16.6,
    "mit-han-lab/StreamingVLM": 16.6,
    "Mar2Ding/Dispider": 19,
    "MCG-NJU/StreamForest-Qwen2-7B": 16.1,
    "MCG-NJU/StreamForest-Drive-Qwen2-7B": 16.1,
}
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja")
NUM_LISTED = 5
"""Names of weights that a message lists at most."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Checkpoint:
    """Files of a checkpoint and how the user named it."""

    name: str
    folder: Path

    def json(self, *names: str) -> dict[str, Any] | None:
        """Content of the first of the files ``names`` that exists, ``None`` if none does."""
        for path in (self.folder / name for name in names):
            if path.is_file():
                return _read_json(path)
        return None

    @property
    def suggested(self) -> Mapping[str, Mapping[str, Any]]:
        """Sizes that the checkpoint itself suggests, by memory (see ``LAB_FILE``)."""
        return self.json(LAB_FILE) or {}


def local_checkpoint(name: str, pocket: str, required: tuple[str, ...]) -> Checkpoint | None:
    """The checkpoint if ``name`` is ``pocket`` or a folder; ``None`` for a hub id. Never uses the network.

    ``pocket``: folder of the shipped model that ``name="pocket"`` means.

    Raises ``ValueError`` when it is neither, or when one of the files ``required`` (or all weights) is missing.
    """
    folder = POCKET_ROOT / pocket if name == "pocket" else Path(name).expanduser()
    if not folder.is_dir():
        return _not_a_folder(name, folder)
    missing = _missing_files(folder, required)
    if missing:
        raise ValueError(f"backbone.checkpoint={name}: {', '.join(missing)} not found in {folder.resolve()}")
    return Checkpoint(name, folder)


def stored_checkpoint(name: str, revision: str | None, pocket: str, required: tuple[str, ...]) -> Checkpoint | None:
    """:func:`local_checkpoint`, else :func:`cached_checkpoint`: the files of ``name`` if they are on this machine."""
    return local_checkpoint(name, pocket, required) or cached_checkpoint(name, revision, required)


def cached_checkpoint(hub_id: str, revision: str | None, required: tuple[str, ...]) -> Checkpoint | None:
    """The files of ``hub_id`` if the local cache holds them; never uses the network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return None if _missing_files(folder, required) else Checkpoint(hub_id, folder)


def fetched_checkpoint(hub_id: str, revision: str | None, required: tuple[str, ...]) -> Checkpoint:
    """The files of ``hub_id``, downloaded where the cache lacks some.

    Raises ``ValueError`` with the id, its size and the command that fetches it where the hub cannot be reached
    or does not hold it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        folder = Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(HUB_FILES)))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        raise ValueError(_not_fetched(hub_id, revision, reason)) from error
    missing = _missing_files(folder, required)
    if missing:
        raise ValueError(_not_fetched(hub_id, revision, f"{', '.join(missing)} not found in {folder}"))
    return Checkpoint(hub_id, folder)


def _missing_files(folder: Path, required: tuple[str, ...]) -> list[str]:
    """Files that are not there, every shard of the weights included."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        # Weights in several files are complete only with all of them.
        weights = sorted(set(_read_json(index)["weight_map"].values()))
    else:
        weights = [] if any(folder.glob("*.safetensors")) else ["model.safetensors"]
    return [file for file in (*required, *weights) if not (folder / file).is_file()]


def _not_a_folder(name: str, folder: Path) -> None:
    if name == "pocket":
        raise ValueError(
            f"backbone.checkpoint=pocket: no pocket model of '{folder.name}' is shipped (there are: "
            f"{', '.join(sorted(path.name for path in POCKET_ROOT.iterdir()))}); give a folder or a hub id"
        )
    if not HUB_ID.fullmatch(name):
        raise ValueError(
            f"backbone.checkpoint={name}: no such folder; give pocket, a folder, or a hub id such as "
            f"{next(iter(HUB_SIZES_GB))}"
        )
    return None


def _not_fetched(hub_id: str, revision: str | None, reason: str) -> str:
    size = f"about {HUB_SIZES_GB[hub_id]:g} GB" if hub_id in HUB_SIZES_GB else "size not known here"
    pinned = f" --revision {revision}" if revision else ""
    return (
        f"backbone.checkpoint={hub_id}: no folder of that name, not complete in the local cache, and not fetched from "
        f"the hub ({reason}). Fetch it once ({size}) where there is a network: hf download {hub_id}{pinned}; "
        "or give the folder that holds it"
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Bars of transformers would break into those of the run."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def require_fit(name: str, **problems: Iterable[object]) -> None:
    """Raise ``ValueError`` listing the weights of checkpoint ``name`` that do not fit the model.

    ``problems``: kind (``missing``, ``unexpected``, ``mismatched``) -> names; nothing is raised when all are empty.
    """
    found = [f"{kind} keys: {_listed(keys)}" for kind, keys in problems.items() if keys]
    if found:
        raise ValueError(f"backbone.checkpoint={name}: weights do not fit the model; {'; '.join(found)}")


def pretrained(
    checkpoint: Checkpoint, model_class: type[PreTrainedModel], dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A frozen model on the CPU in ``dtype``, and its tokenizer, from a folder as Hugging Face saves it; no network.

    Raises ``ValueError`` when weights are missing or left over.
    """
    import torch
    from transformers import AutoTokenizer

    # A trainer may have set another default device; the model is moved as a whole afterwards.
    with torch.device("cpu"), no_progress_bar():
        model, info = model_class.from_pretrained(
            checkpoint.folder,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    # Nothing is left at random, and nothing of the file is left over.
    kinds = ("missing", "unexpected", "mismatched")
    require_fit(checkpoint.name, **{kind: info.get(f"{kind}_keys") or () for kind in kinds})
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
    return model.eval().requires_grad_(False), tokenizer


def processor_config(checkpoint: Checkpoint) -> tuple[dict[str, Any], str]:
    """Constants of the video processor, or of the image processor where there is no other, and what to call it.

    Raises ``ValueError`` where there is neither.
    """
    config = checkpoint.json(*PROCESSOR_FILES)
    if config is None:
        raise ValueError(
            f"backbone.checkpoint={checkpoint.name}: none of {', '.join(PROCESSOR_FILES)} found in {checkpoint.folder}"
        )
    return config, f"processor of {checkpoint.name}"


def stop_ids_of(*named: int | list[int] | tuple[int, ...] | None) -> frozenset[int]:
    """End tokens as configurations name them: one, several or none each."""
    ids: set[int | None] = set()
    for some in named:
        ids |= set(some) if isinstance(some, (list, tuple)) else {some}
    return frozenset(i for i in ids if i is not None)


def _listed(keys: Iterable[object]) -> str:
    names = sorted(map(str, keys))
    more = f" and {len(names) - NUM_LISTED} more" if len(names) > NUM_LISTED else ""
    return ", ".join(names[:NUM_LISTED]) + more

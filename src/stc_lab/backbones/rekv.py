"""``backbone=rekv``: LLaVA-OneVision with ReKV's streaming memory (arXiv:2503.00540)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from stc_lab.backbones.llava_backbone import LlavaBackbone
from stc_lab.backbones.rekv_options import ReKVOptions, check_retrieval
from stc_lab.measure import StageTimer

if TYPE_CHECKING:
    from stc_lab.backbones.rekv_session import ReKVSession
    from stc_lab.cachers.base import Cacher
    from stc_lab.pruners.base import Pruner


class ReKV(LlavaBackbone):
    """A LLaVA-OneVision model whose frames become blocks of keys and values, retrieved per question and layer.

    ``checkpoint`` is ``pocket``, a folder, or a hub id (fetched once if a network is there). Sizes that are
    ``None`` come from the checkpoint's ``stc_lab.json``, else they are the official 15,000 tokens and 64 blocks;
    the other settings are explained in ``conf/backbone/rekv.yaml``. ``dtype`` defaults to torch's default type.
    """

    takes_bare_prompts = True

    def __init__(
        self,
        checkpoint: str = "pocket",
        *,
        revision: str | None = None,
        tokens_per_frame: int = 196,
        n_local: int | None = None,
        topk: int | None = None,
        retrieval_chunk_size: int = 1,
        max_cached_blocks: int = 128,
        offload: bool | None = None,
        upstream_quirks: bool = False,
        max_new_tokens: int = 16,
        answer_reader: Literal["generate", "letter_logits"] = "generate",
        device: str | None = None,
        dtype: Literal["float32", "float16", "bfloat16"] | None = None,
        name: str = "rekv",
    ) -> None:
        super().__init__()
        self.name = name
        self.options = ReKVOptions(
            checkpoint=checkpoint,
            revision=revision,
            tokens_per_frame=tokens_per_frame,
            n_local=n_local,
            topk=topk,
            retrieval_chunk_size=retrieval_chunk_size,
            max_cached_blocks=max_cached_blocks,
            offload=offload,
            upstream_quirks=upstream_quirks,
            max_new_tokens=max_new_tokens,
            answer_reader=answer_reader,
        )
        files = self.options.all_files()
        self.memory_settings = self.options.memory_settings(files)
        self._load_on(files, device, dtype)

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        """See :meth:`Backbone.check_settings`; a hub id that is not in the cache is only checked for its form."""
        options = ReKVOptions.of(settings)
        options.memory_settings(options.local_files())

    @classmethod
    def check_combination(cls, settings: Mapping[str, Any], cacher: Cacher, pruner: Pruner) -> None:
        """See :meth:`Backbone.check_combination`: the retrieved blocks must fit the window."""
        options = ReKVOptions.of(settings)
        num_kept = pruner.max_kept(cls.tokens_to_prune(options.tokens_per_frame, cacher))
        check_retrieval(options.memory_settings(options.local_files()), num_kept)

    def open(self, cacher: Cacher, pruner: Pruner, timer: StageTimer | None = None) -> ReKVSession:
        """See :meth:`Backbone.open`."""
        from stc_lab.backbones.rekv_session import ReKVSession

        check_retrieval(self.memory_settings, pruner.max_kept(self.tokens_to_prune(self.tokens_per_frame, cacher)))
        return ReKVSession(self, cacher, pruner, timer)

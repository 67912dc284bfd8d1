"""``backbone=recent``: the last frames into the offline LLaVA-OneVision model, and no memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from stc_lab.backbones.llava_backbone import LlavaBackbone
from stc_lab.backbones.recent_options import RecentOptions, check_window
from stc_lab.measure import StageTimer

if TYPE_CHECKING:
    from stc_lab.backbones.recent_session import RecentSession
    from stc_lab.cachers.base import Cacher
    from stc_lab.pruners.base import Pruner


class Recent(LlavaBackbone):
    """The plain sliding window that every streaming memory has to beat (SimpleStream).

    A question is answered from the last ``num_frames`` frames before it, as an offline model answers about a clip
    of that length; what is older is gone. It runs the checkpoints of ``backbone=rekv``, the shipped one included.
    ``image_newline``: end the video with the model's learned newline, as its offline use does and ReKV does not.
    """

    takes_bare_prompts = True

    def __init__(
        self,
        checkpoint: str = "pocket",
        *,
        revision: str | None = None,
        tokens_per_frame: int = 196,
        num_frames: int = 4,
        image_newline: bool = False,
        max_new_tokens: int = 16,
        answer_reader: Literal["generate", "letter_logits"] = "generate",
        device: str | None = None,
        dtype: Literal["float32", "float16", "bfloat16"] | None = None,
        name: str = "recent",
    ) -> None:
        super().__init__()
        self.name = name
        self.options = RecentOptions(
            checkpoint=checkpoint,
            revision=revision,
            tokens_per_frame=tokens_per_frame,
            num_frames=num_frames,
            image_newline=image_newline,
            max_new_tokens=max_new_tokens,
            answer_reader=answer_reader,
        )
        self._load_on(self.options.all_files(), device, dtype)

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        """See :meth:`Backbone.check_settings`; a hub id that is not in the cache is only checked for its form."""
        RecentOptions.of(settings).local_files()

    @classmethod
    def check_combination(cls, settings: Mapping[str, Any], cacher: Cacher, pruner: Pruner) -> None:
        """See :meth:`Backbone.check_combination`: the frames must fit the model's context."""
        options = RecentOptions.of(settings)
        num_kept = pruner.max_kept(cls.tokens_to_prune(options.tokens_per_frame, cacher))
        files = options.local_files()
        if files is not None:
            check_window(options, files.json("config.json"), num_kept)

    def open(self, cacher: Cacher, pruner: Pruner, timer: StageTimer | None = None) -> RecentSession:
        """See :meth:`Backbone.open`."""
        from stc_lab.backbones.recent_session import RecentSession

        num_kept = pruner.max_kept(self.tokens_to_prune(self.tokens_per_frame, cacher))
        check_window(self.options, self.model.config.to_dict(), num_kept)
        return RecentSession(self, cacher, pruner, timer)

    @property
    def newline(self) -> Tensor:
        """What stands at the end of the video: [1, H], or [0, H] without ``image_newline``."""
        return self.model.model.image_newline[None][: int(self.options.image_newline)]

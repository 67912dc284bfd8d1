"""``backbone=livecc``: Qwen2-VL that comments on a video while it runs (LiveCC, arXiv:2504.16030)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from stc_lab.backbones.livecc.options import LiveCCOptions
from stc_lab.backbones.qwen_vl.backbone import QwenVL

if TYPE_CHECKING:
    from stc_lab.backbones.livecc.session import LiveCCSession


class LiveCC(QwenVL):
    """Two frames a second make one turn of a conversation; its cache grows with the stream.

    ``checkpoint`` is ``pocket``, a folder, or a hub id (fetched once if a network is there). The settings are
    explained in ``conf/backbone/livecc.yaml``. ``dtype`` defaults to torch's default type.
    """

    options_class = LiveCCOptions

    def __init__(
        self,
        checkpoint: str = "pocket",
        *,
        revision: str | None = None,
        mode: Literal["streaming", "oneshot"] = "streaming",
        fps: float = 2.0,
        tokens_per_frame: int | None = None,
        min_tokens_per_frame: int | None = None,
        max_frames: int = 480,
        query: str = "Please describe the video.",
        positions: Literal["official", "3d"] = "official",
        remember_questions: bool = False,
        commentary: bool = True,
        commentary_tokens: int = 16,
        silence_threshold: float | None = None,
        silence_step: float = 0.0,
        repetition_penalty: float = 1.05,
        temperature: float = 0.0,
        seed: int = 0,
        upstream_quirks: bool = False,
        max_new_tokens: int = 16,
        answer_reader: Literal["letter_logits", "choice_logits", "generate"] = "letter_logits",
        device: str | None = None,
        dtype: Literal["float32", "float16", "bfloat16"] | None = None,
        name: str = "livecc",
    ) -> None:
        super().__init__()
        self.name = name
        self.options = LiveCCOptions(
            checkpoint=checkpoint,
            revision=revision,
            mode=mode,
            fps=fps,
            tokens_per_frame=tokens_per_frame,
            min_tokens_per_frame=min_tokens_per_frame,
            max_frames=max_frames,
            query=query,
            positions=positions,
            remember_questions=remember_questions,
            commentary=commentary,
            commentary_tokens=commentary_tokens,
            silence_threshold=silence_threshold,
            silence_step=silence_step,
            repetition_penalty=repetition_penalty,
            temperature=temperature,
            seed=seed,
            upstream_quirks=upstream_quirks,
            max_new_tokens=max_new_tokens,
            answer_reader=answer_reader,
        )
        self.asking_changes_stream = remember_questions
        self._load_on(self.options.all_files(), device, dtype)

    def _session_class(self) -> type[LiveCCSession]:
        from stc_lab.backbones.livecc.session import LiveCCSession

        return LiveCCSession

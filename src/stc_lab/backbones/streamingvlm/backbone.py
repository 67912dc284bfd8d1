"""``backbone=streamingvlm``: Qwen2.5-VL on an endless stream (StreamingVLM, arXiv:2510.09608)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from stc_lab.backbones.qwen_vl.backbone import QwenVL
from stc_lab.backbones.qwen_vl.prompts import (
    ASSISTANT,
    CLOSE,
    IM_START,
    SYSTEM,
    USER,
    VISION_END,
    VISION_START,
    time_text,
)
from stc_lab.backbones.streamingvlm.options import StreamingVLMOptions

if TYPE_CHECKING:
    from stc_lab.backbones.streamingvlm.session import StreamingVLMSession


class StreamingVLM(QwenVL):
    """One second of video is a round; the cache keeps a sink and a window of text, and a window of vision.

    ``checkpoint`` is ``pocket``, a folder, or a hub id (fetched once if a network is there). The settings are
    explained in ``conf/backbone/streamingvlm.yaml``. ``dtype`` defaults to torch's default type.
    """

    options_class = StreamingVLMOptions

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
        query: str = "Commentate on this match",
        previous_text: str = "",
        positions: Literal["shrink", "append"] = "shrink",
        round_s: int = 1,
        vision_window_s: int = 16,
        text_window_s: int = 16,
        text_sink: int = 512,
        text_window: int = 512,
        commentary: bool = True,
        commentary_tokens: int = 20,
        repetition_penalty: float = 1.05,
        temperature: float = 0.0,
        seed: int = 0,
        upstream_quirks: bool = False,
        max_new_tokens: int = 16,
        answer_reader: Literal["letter_logits", "choice_logits", "generate"] = "letter_logits",
        device: str | None = None,
        dtype: Literal["float32", "float16", "bfloat16"] | None = None,
        name: str = "streamingvlm",
    ) -> None:
        super().__init__()
        self.name = name
        self.options = StreamingVLMOptions(
            checkpoint=checkpoint,
            revision=revision,
            mode=mode,
            fps=fps,
            tokens_per_frame=tokens_per_frame,
            min_tokens_per_frame=min_tokens_per_frame,
            max_frames=max_frames,
            query=query,
            previous_text=previous_text,
            positions=positions,
            round_s=round_s,
            vision_window_s=vision_window_s,
            text_window_s=text_window_s,
            text_sink=text_sink,
            text_window=text_window,
            commentary=commentary,
            commentary_tokens=commentary_tokens,
            repetition_penalty=repetition_penalty,
            temperature=temperature,
            seed=seed,
            upstream_quirks=upstream_quirks,
            max_new_tokens=max_new_tokens,
            answer_reader=answer_reader,
        )
        self._load_on(self.options.all_files(), device, dtype)
        self.tokens_per_second = getattr(self.model.config.vision_config, "tokens_per_second", 0.5)

    def most_tokens(self, tokens_per_patch: int, longest_s: int = 359_999) -> int:
        """Tokens in the cache at most, in a stream of up to ``longest_s`` seconds, with that many visual tokens per
        temporal patch; a question being answered comes on top."""
        ids, windows, options = self.loaded.token_ids, self.options.windows, self.options
        opening = len(ids(f"{SYSTEM}{IM_START}previous text\n{CLOSE}"))
        user = len(ids(f"{USER}{time_text(longest_s, longest_s)}{VISION_START}{VISION_END}{CLOSE}"))
        reply = len(ids(f"{ASSISTANT}{CLOSE}")) + options.commentary_tokens
        visual = tokens_per_patch * windows.patches_per_round
        rounds = max(windows.text_rounds, windows.vision_rounds) * user + windows.vision_rounds * visual
        previous = max(windows.text_sink + windows.text_window, len(ids(options.previous_text)))
        return opening + previous + len(ids(options.query)) + rounds + windows.text_rounds * reply

    def _session_class(self) -> type[StreamingVLMSession]:
        from stc_lab.backbones.streamingvlm.session import StreamingVLMSession

        return StreamingVLMSession

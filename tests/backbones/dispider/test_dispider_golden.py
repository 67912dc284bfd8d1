"""Dispider against numbers of the released code (golden case ``dispider``): every stage, and all of them together."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stc_lab.api import open_session
from stc_lab.backbones.dispider import Dispider
from stc_lab.backbones.dispider.checkpoint import square
from stc_lab.backbones.dispider.model import DispiderVideoModel, after_video, before_video
from stc_lab.backbones.dispider.networks import CLIP_TEXT, mix, pool
from stc_lab.cachers.none import NoCacher
from stc_lab.language.caches.growing import GrowingStore
from stc_lab.language.context import generate
from stc_lab.measure import StageTimer
from stc_lab.memories.dispider import (
    Clip,
    ClipFrame,
    DispiderMemory,
    DispiderState,
    Judge,
    Judgement,
    Moment,
    question_sequence,
    streaming_sequence,
)
from stc_lab.pruners.none import NoPruner
from stc_lab.types import Question, VisualTokens

TOLERANCE = {"atol": 2e-5, "rtol": 5e-5}
STREAMING = (
    "stream0",
    "stream0_ans",
    "stream_insert3",
    "stream_insert_is_answer",
    "stream_insert_now",
    "stream_three_clips",
    "stream_two_clips",
)


@pytest.fixture(scope="module")
def facts(shared_dir: Path) -> dict:
    return json.loads((shared_dir / "golden" / "backbones" / "dispider.json").read_text())


@pytest.fixture(scope="module")
def tensors(shared_dir: Path) -> dict[str, Tensor]:
    return load_file(shared_dir / "golden" / "backbones" / "dispider.safetensors")


@pytest.fixture(scope="module")
def question(facts: dict) -> Question:
    return Question("q", 120.0, facts["question"])


def write(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def flat(config: dict) -> dict:
    """The old form, with the rotary base at the top, as the released checkpoint has it."""
    return {key: value for key, value in config.items() if value is not None}


@pytest.fixture(scope="module")
def folder(shared_dir: Path, facts: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The replica as a checkpoint folder: its weights are in the official key layout."""
    golden, folder = shared_dir / "golden" / "backbones", tmp_path_factory.mktemp("dispider")
    inner = folder / "stream_compressor"
    write(folder / "config.json", {"model_type": "long", **flat(facts["llm_config"])})
    write(inner / "config.json", {"model_type": "stream_ground_qwen", **flat(facts["compressor_config"])})
    write(inner / "vision_tower" / "config.json", facts["vision_config"])
    pixels = {"image_mean": [120 / 255] * 3, "image_std": [60 / 255] * 3}
    write(inner / "vision_tower" / "preprocessor_config.json", pixels)
    write(folder / "stc_lab.json", {"dispider": {"clip_frames": facts["frames_per_clip"]}})
    for place in (folder, inner):
        shutil.copy(golden / "dispider_standin_tokenizer.json", place / "tokenizer.json")
    shutil.copy(golden / "dispider_weights_official.safetensors", folder / "model.safetensors")
    return folder


def loaded(folder: Path) -> DispiderVideoModel:
    return Dispider(checkpoint=str(folder), tokens_per_frame=4).load(dtype=torch.float32)


@pytest.fixture(scope="module")
def backbone(folder: Path) -> DispiderVideoModel:
    return loaded(folder)


def clip_times(facts: dict) -> list[tuple[float, float]]:
    times = facts["times_start_end"]
    half = len(times) // 2
    return list(zip(times[:half], times[half:], strict=True))


def clip_frames(backbone: DispiderVideoModel, facts: dict, tensors: dict[str, Tensor], number: int) -> list[ClipFrame]:
    """Frames of a clip, at times that tell the compressor what the released loader told it."""
    frames = list(tensors["frames_u8"][number].permute(0, 2, 3, 1).numpy())
    features = NoCacher().encode(backbone.tower, backbone.preprocess(frames), None).features
    mixed, tokens = mix(features[:, 1:]), backbone.project(features)
    start, end = clip_times(facts)[number]
    step = (end - start) / len(frames)
    kept = [VisualTokens.full(t, backbone.grid, start + i * step) for i, t in enumerate(tokens)]
    return [ClipFrame(m, k) for m, k in zip(mixed, kept, strict=True)]


def all_clips(
    backbone: DispiderVideoModel, facts: dict, tensors: dict[str, Tensor], indicator_mask: bool = False
) -> list[Clip]:
    perceive, numbers = backbone.compressor.perceive, range(len(tensors["frames_u8"]))
    return [perceive(clip_frames(backbone, facts, tensors, n), indicator_mask=indicator_mask)[0] for n in numbers]


def state_of(backbone: DispiderVideoModel) -> DispiderState:
    return DispiderMemory().open(backbone, StageTimer(backbone.device))


@pytest.fixture(scope="module")
def clips(backbone: DispiderVideoModel, facts: dict, tensors: dict[str, Tensor]) -> list[Clip]:
    with torch.no_grad():
        return all_clips(backbone, facts, tensors)


@torch.no_grad()
def test_frames_of_a_clip(backbone: DispiderVideoModel, facts: dict, tensors: dict[str, Tensor]) -> None:
    frames = list(tensors["frames_u8"][0].permute(0, 2, 3, 1).numpy())
    features = NoCacher().encode(backbone.tower, backbone.preprocess(frames), None).features[:, 1:]
    torch.testing.assert_close(features[0], tensors["clip.patch_features_first_frame"], **TOLERANCE)
    mixed = mix(features)
    torch.testing.assert_close(mixed[0], tensors["clip.mixed_first_frame"], **TOLERANCE)
    tokens = mixed.flatten(0, 1)
    visual = torch.cat((tokens, pool(mixed, 1), tokens.mean(0, keepdim=True)))
    projected = backbone.model.mm_projector["mlp"](visual)
    torch.testing.assert_close(projected, tensors["clip.projected_first_clip"], **TOLERANCE)


def test_texts(backbone: DispiderVideoModel, facts: dict, tensors: dict[str, Tensor], question: Question) -> None:
    rows = zip(tensors["clip_text_ids"].tolist(), tensors["clip_text_mask"].tolist(), clip_times(facts), strict=True)
    for number, (ids, mask, (start, end)) in enumerate(rows):
        text = CLIP_TEXT.format(start=round(start), end=round(end))
        assert text == facts["clip_sentences"][number]
        assert [*backbone.loaded.compressor_ids(text), -200] == ids[: sum(mask)]
    assert backbone.loaded.compressor_ids(f"{question.text}<to_do>") == tensors["question_ids"][0].tolist()
    prompt = [backbone.token_ids(text) for text in (before_video(), after_video(question))]
    assert [*prompt[0], -200, *prompt[1]] == facts["prompt_ids"]
    assert backbone.silent_id == facts["special_ids"]["<keep_silent>"]
    assert facts["special_ids"]["<|im_end|>"] in backbone.stop_ids


@pytest.mark.parametrize("shape", ["6x8", "8x6"])
def test_frames_are_squashed_to_squares(tensors: dict[str, Tensor], shape: str) -> None:
    source, expected = tensors[f"square_resize.{shape}.source"], tensors[f"square_resize.{shape}"]
    assert torch.equal(torch.from_numpy(square(source[0].numpy())), expected[0])


@dataclass(frozen=True)
class VideoSamples:
    """Frame indices, ``clip_frames`` per clip, with start and end of each clip in seconds."""

    indices: tuple[int, ...]
    start_s: tuple[float, ...]
    end_s: tuple[float, ...]

    @property
    def num_clips(self) -> int:
        """Number of clips."""
        return len(self.start_s)


def sample_video(num_frames: int, fps: float, clip_frames: int = 16, max_clips: int = 100) -> VideoSamples:
    """How the released scripts sample a whole video; a stream, whose length is not known, cannot be sampled this way.

    Clips of about ``clip_frames`` seconds, with frames in the middle of equal segments of the whole video.

    At least one clip and at most ``max_clips``; halves are rounded to even. A clip ends with the end of its last
    frame.
    """
    num_clips = min(max(round(num_frames / fps / clip_frames), 1), max_clips)
    total = num_clips * clip_frames
    segment = (num_frames - 1) / total
    indices = [(round(segment * i) + round(segment * (i + 1))) // 2 for i in range(total)]
    return VideoSamples(
        indices=tuple(indices),
        start_s=tuple(indices[i] / fps for i in range(0, total, clip_frames)),
        end_s=tuple((indices[i] + 1) / fps for i in range(clip_frames - 1, total, clip_frames)),
    )


def test_sampling_of_whole_videos(facts: dict) -> None:
    for case in facts["sampling_table"]:
        samples = sample_video(case["total_frames"], case["fps"])
        first, last = case["first_indices"], case["last_indices"]
        assert samples.num_clips == case["num_clips"] and len(samples.indices) == case["num_indices"]
        assert list(samples.indices[: len(first)]) == first and list(samples.indices[-len(last) :]) == last
        times, expected = [*samples.start_s, *samples.end_s], case["time_start_end"]
        if "..." in expected:
            times = times[: expected.index("...")] + times[-2:]
            expected = [time for time in expected if time != "..."]
        assert times == pytest.approx(expected, rel=1e-5)
        assert CLIP_TEXT.format(start=round(times[0]), end=round(samples.end_s[0])) == case["clip0_text"]


def test_clip_memories_and_indicators(clips: list[Clip], tensors: dict[str, Tensor]) -> None:
    memory = torch.cat([clip.memory for clip in clips])
    indicators = torch.stack([clip.indicator for clip in clips])
    for case in ("stream0", "offline"):
        torch.testing.assert_close(memory, tensors[f"{case}.clip_memory"], **TOLERANCE)
        torch.testing.assert_close(indicators, tensors[f"{case}.full_time"], **TOLERANCE)


def judgement(judge: Judge, case: dict, text: str, clips: list[Clip]) -> tuple[Judgement, Tensor]:
    """Judgement and embeddings of a golden case."""
    if case["insert_position"] is None:
        embeds, _ = judge.compressor.embeds(question_sequence("offline", len(clips)), text, clips)
        return judge.ask(text, clips, "offline"), embeds
    decoder = judge.compressor.decoder
    pieces = streaming_sequence(len(clips), case["insert_position"], case["ans_position"])
    embeds, _ = judge.compressor.embeds(pieces, text, clips)
    return judge.judge(decoder(embeds, GrowingStore(decoder.shape))[-1], clips), embeds


def check_case(
    backbone: DispiderVideoModel,
    clips: list[Clip],
    facts: dict,
    tensors: dict[str, Tensor],
    name: str,
    question: Question,
) -> None:
    case, state = facts[name], state_of(backbone)
    clips = clips[: case["n_clips"]]
    judged, sequence = judgement(state.judge, case, question.text, clips)
    assert len(sequence) == case["decision_len"]
    torch.testing.assert_close(sequence.sum(-1), tensors[f"{name}.decision_embeds_sum"], **TOLERANCE)
    torch.testing.assert_close(judged.state, tensors[f"{name}.query_state"], **TOLERANCE)
    torch.testing.assert_close(judged.similarity, tensors[f"{name}.similarity"], **TOLERANCE)
    if "silent_logit" in case:
        assert judged.score == pytest.approx(case["silent_logit"], abs=2e-5)
        assert judged.responds == (case["silent_logit"] > 0)
    if f"{name}.cosine" in tensors:
        torch.testing.assert_close(judged.cosine, tensors[f"{name}.cosine"], **TOLERANCE)
    assert list(judged.selected) == case["selected_clips"]
    summary, _ = backbone.compressor.summary(clips)
    torch.testing.assert_close(summary, tensors[f"{name}.global_memory"], **TOLERANCE)
    reading = state.reading(Moment(tuple(clips), summary, 0), judged, 0)
    prompt = [*reading.segments, *backbone.layout.question(question, "generate")]
    embeds = backbone.sequence(prompt).embeds
    assert len(embeds) == case["inputs_embeds_len"]
    torch.testing.assert_close(embeds.sum(-1), tensors[f"{name}.inputs_embeds_sum"], **TOLERANCE)
    if f"{name}.inputs_embeds" in tensors:
        torch.testing.assert_close(embeds, tensors[f"{name}.inputs_embeds"], **TOLERANCE)
    logits = reading.context.read(prompt)
    torch.testing.assert_close(logits, tensors[f"{name}.logits_last"], **TOLERANCE)
    assert generate(reading.context, logits, len(case["generated_ids"]), ()).ids == case["generated_ids"]


@pytest.mark.parametrize("name", [*STREAMING, "offline"])
@torch.no_grad()
def test_decision_retrieval_and_reaction(
    backbone: DispiderVideoModel,
    clips: list[Clip],
    facts: dict,
    tensors: dict[str, Tensor],
    question: Question,
    name: str,
) -> None:
    if name not in facts:
        pytest.skip(f"the golden file has no case {name}")
    check_case(backbone, clips, facts, tensors, name, question)


@torch.no_grad()
def test_offline_takes_more_clips_where_more_are_close(
    folder: Path, facts: dict, tensors: dict[str, Tensor], question: Question
) -> None:
    backbone = loaded(folder)
    backbone.model.compressor["model"].norm.weight.copy_(tensors["offline_many.norm_weight"])
    check_case(backbone, all_clips(backbone, facts, tensors), facts, tensors, "offline_many", question)
    assert facts["offline_many"]["num_select"] == len(facts["offline_many"]["selected_clips"]) == 5


@torch.no_grad()
def test_indicator_mask_is_an_option(
    backbone: DispiderVideoModel, facts: dict, tensors: dict[str, Tensor], question: Question, clips: list[Clip]
) -> None:
    masked = all_clips(backbone, facts, tensors, indicator_mask=True)
    indicators = torch.stack([clip.indicator for clip in masked])
    torch.testing.assert_close(indicators, tensors["stream0_indicator_mask.full_time"], **TOLERANCE)
    memory = torch.cat([clip.memory for clip in masked])
    torch.testing.assert_close(memory, tensors["stream0_indicator_mask.clip_memory"], **TOLERANCE)
    check_case(backbone, masked, facts, tensors, "stream0_indicator_mask", question)
    assert not torch.allclose(masked[0].indicator, clips[0].indicator, atol=1e-3)


@torch.no_grad()
def test_scoring_over_summaries(
    backbone: DispiderVideoModel, clips: list[Clip], facts: dict, tensors: dict[str, Tensor], question: Question
) -> None:
    judged = state_of(backbone).judge.ask(question.text, clips, "summary")
    assert judged.score == pytest.approx(facts["eval_global_variant"]["silent_logit"], abs=2e-5)
    torch.testing.assert_close(judged.similarity, tensors["eval_global_variant.similarity"], **TOLERANCE)


def test_session_from_frames_to_decisions_and_answer(
    backbone: DispiderVideoModel, facts: dict, tensors: dict[str, Tensor], question: Question
) -> None:
    """The same numbers through a stream session, one frame at a time."""
    session = open_session(backbone, NoCacher(), NoPruner(), DispiderMemory())
    session.watch(question)
    decisions = []
    for (start, end), clip in zip(clip_times(facts), tensors["frames_u8"], strict=True):
        frames = list(clip.permute(0, 2, 3, 1).numpy())
        for number, frame in enumerate(frames):
            reports = session.push([frame], [start + number * (end - start) / len(frames)])
            decisions += [decision for report in reports for decision in report.decisions]
    assert [decision.score for decision in decisions] == pytest.approx(facts["online"]["silent_logits"], abs=2e-5)
    responds = [number for number, decision in enumerate(decisions, 1) if decision.responds]
    assert responds == facts["online"]["ans_position"]
    answer = session.ask(question)
    case = facts["stream0"]
    assert answer.details["selected_clips"] == case["selected_clips"]
    assert answer.details["response_score"] == pytest.approx(case["silent_logit"], abs=2e-5)
    assert answer.num_prompt_tokens == case["inputs_embeds_len"]
    expected = backbone.text(case["generated_ids"])
    assert answer.text[: len(expected)] == expected

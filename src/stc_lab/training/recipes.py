"""How every pocket model was trained: a recipe is a tuple of stages, each a line of data.

ReKV's model comes first: the others start from it (see ``docs/pocket.md``, ``docs/dispider.md``,
``docs/streamforest.md`` and ``docs/livecc-streamingvlm.md``). Minutes are those of two CPU cores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from stc_lab.backbones.checkpoints import POCKET_ROOT
from stc_lab.backbones.streamforest.checkpoint import save_streamforest
from stc_lab.memories.streamforest import ForestSizes
from stc_lab.pocket.tokenizer import build_tokenizer
from stc_lab.training.batches import (
    CELLS,
    HARD,
    Batches,
    BindingBatches,
    Mix,
    Prefetcher,
    QuestionEncoder,
    StillBatches,
    SymbolBatches,
    TokenBatches,
)
from stc_lab.training.dispider_compressor import ClipBatches, ClipMix, Compressor
from stc_lab.training.dispider_reaction import FrozenCompressor, ReactionBatches, ReactionLearner, dispider_questions
from stc_lab.training.features import FeatureCache, caches, clip_features, pair_features, stream_tokens
from stc_lab.training.language import StreamLearner, TurnLearner
from stc_lab.training.loop import Training, muon_and_adamw, stage_weights, train
from stc_lab.training.models import dispider, llava, qwen_vl, streamforest
from stc_lab.training.models.warm import warm_start
from stc_lab.training.qwen_batches import TurnBatches, TurnMix
from stc_lab.training.qwen_turns import LAYOUTS, Vocabulary
from stc_lab.training.streamforest import (
    VIEWS_PER_STREAM,
    ForestLearner,
    PlacedProjector,
    ViewBatches,
    ViewMix,
    forest_questions,
    view_features,
    view_times,
)
from stc_lab.training.vision import CellProbe, DispiderEncoder, LlavaEncoder, QwenEncoder

Optimizers = list[torch.optim.Optimizer]


@dataclass(frozen=True)
class Stage:
    """``learner()``, with the weights that stage ``start`` left where one is named, learns from ``data(folder,
    learner)[step]`` by its method ``loss``."""

    name: str
    learner: Callable[[], nn.Module]
    data: Callable[[Path, nn.Module], Sequence]
    num_steps: int
    optimizers: Callable[[nn.Module], Optimizers]
    start: str | None = None
    final_lr_ratio: float = 0.05
    loss: str = "loss"
    begin: Callable[[nn.Module, dict[str, Tensor]], object] = nn.Module.load_state_dict

    def run(self, folder: Path) -> nn.Module:
        """Train, or go on, or load what is finished; the checkpoint is ``folder/<name>.pt``."""
        learner = self.learner()
        if self.start is not None:
            self.begin(learner, stage_weights(folder, self.start))
        data, loss = self.data(folder, learner), getattr(learner, self.loss)
        optimizers = self.optimizers(learner)
        step_loss = lambda step: loss(data[step])  # noqa: E731
        train(Training(self.name, learner, optimizers, step_loss, self.num_steps, 50, self.final_lr_ratio), folder)
        return learner


@dataclass(frozen=True)
class Step:
    """Anything else that a recipe does in a folder: features of a tower, the checkpoint that is shipped."""

    name: str
    run: Callable[[Path], object]


def trained(learner: nn.Module, folder: Path, stage: str) -> nn.Module:
    """``learner`` as ``stage`` left it, in place."""
    learner.load_state_dict(stage_weights(folder, stage))
    return learner.eval()


def adamw(lr: float) -> Callable[[nn.Module], Optimizers]:
    """What language stages use where all matrices are small."""
    return lambda learner: [torch.optim.AdamW(learner.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.01)]


def muon(muon_lr: float, adamw_lr: float, **more) -> Callable[[nn.Module], Optimizers]:
    """Muon for the matrices of the layers."""
    return lambda learner: muon_and_adamw(learner, learner.layers, muon_lr, adamw_lr, **more)


def fresh(seed: int) -> Callable[[Path, nn.Module], Batches]:
    """For learners that draw what they look at: a generator for every step."""
    return lambda folder, learner: Batches(seed)


NUM_STREAMS = {
    "rekv": {12: 1000, 28: 160},
    "streamforest": {12: 700, 28: 160},
    "dispider": {12: 480, 28: 70},
    "livecc": {12: 72, 28: 14},
    "streamingvlm": {12: 48, 28: 14},
}
"""Streams per duration in seconds whose features are kept on disk: 0.9, 1.7, 0.8, 0.2 and 0.15 GB."""

# ReKV: letters to options (text only), questions about labelled pictures and streams, then real tokens at all budgets.

FEW_CELLS = Mix((6, 12, 24, 48), (0.3, 0.35, 0.25, 0.1), (8, 12, 28), (0.35, 0.5, 0.15))
MORE_CELLS = Mix((10, 16, 28, 48), (0.25, 0.35, 0.25, 0.15), (8, 12, 28), (0.15, 0.7, 0.15))
BUDGETS = (8, 16, 32, 64, 128, 196)
SHORT = Mix(BUDGETS, (0.05, 0.16, 0.20, 0.20, 0.18, 0.21))
LONG = replace(SHORT, duration_weights=(0.7, 0.3), long_at_most=CELLS)  # positions as far as a full window's
LATE = replace(LONG, emphasis=HARD | {"which_gone": 5.0})  # learnt last of all


def rekv_probe() -> CellProbe:
    """Tower and projector."""
    return CellProbe(LlavaEncoder(llava.new_pocket(build_tokenizer())), num_pictures=12)


def rekv_learner() -> StreamLearner:
    """Language model."""
    tokenizer = build_tokenizer()
    return StreamLearner(llava.new_pocket(tokenizer), QuestionEncoder(tokenizer))


def rekv_beginner() -> StreamLearner:
    """The same, whose words begin as what they name looks like."""
    learner = rekv_learner()
    learner.start_words_from_code()
    return learner


def rekv_features(folder: Path) -> dict[int, FeatureCache]:
    """What the tower says about real h264 streams."""
    encoder = trained(rekv_probe(), folder, "vision").encoder
    make = lambda script, _: {"tokens": stream_tokens(encoder, script).numpy()}  # noqa: E731
    return caches(folder / "features", NUM_STREAMS["rekv"], make)


def export_rekv(folder: Path, target: Path = POCKET_ROOT / "rekv") -> None:
    """Write the trained model where ``backbone.checkpoint=pocket`` finds it."""
    model = llava.new_pocket(tokenizer := build_tokenizer())
    trained(CellProbe(LlavaEncoder(model)), folder, "vision")
    trained(StreamLearner(model, QuestionEncoder(tokenizer)), folder, "streams")
    model.tie_weights()
    llava.export(model.eval(), target)


def _symbols(folder: Path, learner: StreamLearner) -> Prefetcher:
    return Prefetcher(SymbolBatches(learner.encoder, {0: FEW_CELLS, 400: MORE_CELLS}, seed=3))


def _tokens(folder: Path, learner: StreamLearner) -> Prefetcher:
    mixes = {0: SHORT, 1000: LONG, 1400: LATE}
    return Prefetcher(TokenBatches(rekv_features(folder), learner.encoder, mixes, seed=4))


REKV = (
    Stage("vision", rekv_probe, fresh(1), 1400, muon(0.02, 2e-3)),  # 25 minutes
    Stage("binding", rekv_beginner, lambda _, x: Prefetcher(BindingBatches(x.encoder, seed=2)), 250, adamw(1e-3)),
    Stage("stills", rekv_learner, lambda _, x: Prefetcher(StillBatches(x.encoder, 5)), 700, adamw(1.5e-3), "binding"),
    Stage("words", rekv_learner, _symbols, 1800, adamw(1.5e-3), "stills", final_lr_ratio=0.5),  # 25 minutes
    Step("features", rekv_features),  # 10 minutes
    Stage("streams", rekv_learner, _tokens, 3200, adamw(1.2e-3), "words"),  # 45 minutes
    Step("export", export_rekv),
)

# StreamForest: ReKV's tower as it is; projector (places and times), then projector and language model on the memory.

FOREST_MIXES = {
    0: ViewMix((0.1, 0.2, 0.35), (0.4, 0.4, 0.2)),
    400: ViewMix((0.1, 0.2, 0.35, 0.5, 1.0), (0.15, 0.3, 0.2, 0.2, 0.15)),
}


def placed_projector() -> PlacedProjector:
    """The projector alone learns."""
    return PlacedProjector(streamforest.new_pocket_streamforest())


def forest_learner() -> ForestLearner:
    """Projector and language model learn."""
    model = streamforest.new_pocket_streamforest(warm_start=False)
    return ForestLearner(model, forest_questions(streamforest.pocket_tokenizer()))


def take_model(learner: nn.Module, state: Mapping[str, Tensor]) -> None:
    """The ``model`` of another learner's weights; what it kept beside the model, as a teacher, is left."""
    own = {name.removeprefix("model."): state[name] for name in state if name.startswith("model.")}
    learner.model.load_state_dict(own)


def forest_features(folder: Path) -> dict[int, FeatureCache]:
    """What ReKV's tower and the memory make of h264 streams."""
    model, sizes = streamforest.new_pocket_streamforest().eval(), ForestSizes(**streamforest.POCKET_SIZES)

    def make(script, index):
        times_s = view_times(script.duration_s, index, VIEWS_PER_STREAM[script.duration_s])
        return view_features(model, sizes, script, times_s)

    return caches(folder / "views", NUM_STREAMS["streamforest"], make)


def export_streamforest(folder: Path, target: Path = POCKET_ROOT / "streamforest") -> None:
    """Write the trained model where ``backbone.checkpoint=pocket`` finds it."""
    learner = trained(forest_learner(), folder, "memory")
    save_streamforest(learner.model, streamforest.pocket_tokenizer(), target, streamforest.POCKET_SIZES)


def _views(folder: Path, learner: ForestLearner) -> Prefetcher:
    return Prefetcher(ViewBatches(forest_features(folder), learner.encoder, FOREST_MIXES, seed=8))


def _projector_adamw(learner: PlacedProjector) -> Optimizers:
    return [torch.optim.AdamW(learner.model.projector.parameters(), lr=2e-3, weight_decay=0.0)]


STREAMFOREST = (
    Stage("projector", placed_projector, fresh(7), 400, _projector_adamw),  # 2 minutes
    Step("features", forest_features),  # 8 minutes
    Stage("memory", forest_learner, _views, 1500, adamw(1.2e-3), "projector", begin=take_model),  # 25 minutes
    Step("export", export_streamforest),
)

# Dispider: at first what memories hold, then what is read from them, also by colour; last without leaving out the
# ground. Then letters to options in its own prompt, and the language model on what the frozen compressor hands it.

PARTLY = {0: ClipMix(40, 4500, 0, 0), 200: ClipMix(40, 4000), 520: ClipMix(CELLS, 5000, 8, 4)}
WHOLE = {0: ClipMix(40, 4000, 12, 3, by_color=True), 250: ClipMix(CELLS, 6000, 10, 4, by_color=True)}
CLIPS = Mix(BUDGETS, (0.05, 0.15, 0.2, 0.25, 0.15, 0.2), duration_weights=(0.75, 0.25), tokens_per_batch=3000)
READ = {0: CLIPS, 150: replace(CLIPS, long_at_most=CELLS)}


def dispider_probe() -> CellProbe:
    """Tower and projectors of patches."""
    probe = CellProbe(DispiderEncoder(dispider.new_pocket_dispider()))
    probe.encoder.start_norm()
    return probe


def dispider_compressor() -> Compressor:
    """The compressor with its head."""
    return Compressor(dispider.new_pocket_dispider(), dispider.pocket_tokenizer())


def dispider_learner() -> ReactionLearner:
    """Language model and projector of memories."""
    return ReactionLearner(dispider.new_pocket_dispider(), dispider_questions(dispider.pocket_tokenizer()))


def dispider_features(folder: Path) -> dict[int, FeatureCache]:
    """What the tower says about real h264 streams."""
    encoder = trained(dispider_probe(), folder, "vision").encoder
    make = lambda script, _: clip_features(encoder, script)  # noqa: E731
    return caches(folder / "features", NUM_STREAMS["dispider"], make, first_seed=1 << 43)


def export_dispider(folder: Path, target: Path = POCKET_ROOT / "dispider") -> None:
    """Write the trained model where ``backbone.checkpoint=pocket`` finds it."""
    model, tokenizer = dispider.new_pocket_dispider(), dispider.pocket_tokenizer()
    trained(CellProbe(DispiderEncoder(model)), folder, "vision")
    trained(Compressor(model, tokenizer), folder, "clips")
    trained(ReactionLearner(model, dispider_questions(tokenizer)), folder, "reaction")
    dispider.save_pocket_dispider(model.eval(), target)


def _clips(mixes: Mapping[int, ClipMix], seed: int) -> Callable[[Path, Compressor], ClipBatches]:
    return lambda folder, _: ClipBatches(dispider_features(folder), mixes, seed)


def _reactions(folder: Path, learner: ReactionLearner) -> ReactionBatches:
    compressor = FrozenCompressor(trained(dispider_compressor(), folder, "clips"))
    return ReactionBatches(dispider_features(folder), compressor, learner.encoder, READ, seed=3)


_of_compressor = muon(0.01, 0.0015, betas=(0.9, 0.95), weight_decay=0.01)
DISPIDER = (
    Stage("vision", dispider_probe, fresh(1), 450, muon(0.008, 1.5e-3)),  # 7 minutes
    Step("features", dispider_features),  # 6 minutes
    Stage("compressor", dispider_compressor, _clips(PARTLY, seed=2), 600, _of_compressor),  # 10 minutes
    Stage("clips", dispider_compressor, _clips(WHOLE, seed=5), 400, _of_compressor, "compressor"),  # 8 minutes
    Stage("binding", dispider_learner, lambda _, x: BindingBatches(x.encoder, seed=6), 200, adamw(1e-3)),  # 2 minutes
    Stage("reaction", dispider_learner, _reactions, 400, adamw(1e-3), "binding"),  # 10 minutes
    Step("export", export_dispider),
)

# LiveCC and StreamingVLM: tower and merger on pairs of frames; then turns, on labels and on what the tower says.
# LiveCC's language part first learns where a visual token lies and letters to options; StreamingVLM's starts from it.

TINY = TurnMix((6, 12, 24), (0.4, 0.4, 0.2), tokens_per_batch=700, num_questions=1, most_long=200)
FEW = TurnMix((12, 24, 48), (0.4, 0.4, 0.2), tokens_per_batch=1800)
MANY = TurnMix(
    BUDGETS, (0.06, 0.22, 0.26, 0.26, 0.1, 0.1), tokens_per_batch=2000, real_share=0.5, binding_share=0.05
)  # fmt: skip
FEW_ROUNDS = replace(FEW, budget_weights=(0.3, 0.4, 0.3))
MANY_ROUNDS = replace(MANY, binding_share=0.0)
NEW = {"livecc": qwen_vl.new_pocket_livecc, "streamingvlm": qwen_vl.new_pocket_streamingvlm}


def qwen_probe(backbone: str) -> CellProbe:
    """Tower and merger."""
    probe = CellProbe(QwenEncoder(NEW[backbone]()))
    probe.encoder.look_at_second_frame()
    return probe


def turn_learner(backbone: str) -> TurnLearner:
    """Language model: of the ReKV pocket, or for StreamingVLM of the LiveCC pocket."""
    model = NEW[backbone]()
    if backbone == "streamingvlm":
        warm_start(model.model.language_model, load_file(POCKET_ROOT / "livecc" / "model.safetensors"), {"": "model."})
        model.tie_weights()
    return TurnLearner(model, Vocabulary())


def turn_beginner(backbone: str) -> TurnLearner:
    """The same with phrases that begin as those of ReKV."""
    learner = turn_learner(backbone)
    learner.start_phrases()
    return learner


def qwen_features(backbone: str, vision_stage: str, folder: Path) -> dict[int, FeatureCache]:
    """What the tower of a stage says about real h264 streams."""
    encoder = trained(qwen_probe(backbone), folder, vision_stage).encoder
    make = lambda script, _: pair_features(encoder, script)  # noqa: E731
    return caches(folder / "features", NUM_STREAMS[backbone], make)


def export_qwen(backbone: str, vision_stage: str, folder: Path, target: Path | None = None) -> Path:
    """Write the trained model where ``backbone.checkpoint=pocket`` finds it."""
    model = NEW[backbone]()
    trained(CellProbe(QwenEncoder(model)), folder, vision_stage)
    trained(TurnLearner(model, Vocabulary()), folder, "fluency")
    model.tie_weights()
    return qwen_vl.save_pocket(model.eval(), target or POCKET_ROOT / backbone, backbone)


def _turns(
    backbone: str, mixes: Mapping[int, TurnMix], seed: int, vision_stage: str | None = None
) -> Callable[[Path, TurnLearner], Prefetcher]:
    """Turns on labels, and where a ``vision_stage`` is named on what its tower says too."""

    def data(folder: Path, learner: TurnLearner) -> Prefetcher:
        real = qwen_features(backbone, vision_stage, folder) if vision_stage else None
        return Prefetcher(TurnBatches(LAYOUTS[backbone](learner.words), mixes, seed, real))

    return data


def _muon_turns(muon_lr: float = 0.006) -> Callable[[nn.Module], Optimizers]:
    return muon(muon_lr, 1e-3, betas=(0.9, 0.95), weight_decay=0.01)


_livecc = partial(turn_learner, "livecc")
_beginner = partial(turn_beginner, "livecc")
_on_turns = partial(_turns, "livecc")
_binding = {0: replace(FEW, binding_share=0.75)}
LIVECC = (
    Stage("vision", partial(qwen_probe, "livecc"), fresh(11), 420, muon(0.015, 2e-3)),  # 8 minutes
    Stage("places", _beginner, _on_turns({0: TINY}, 15), 300, _muon_turns(0.015), loss="place_loss"),  # 1 minute
    Stage("words", _livecc, _on_turns({0: FEW}, 12), 360, _muon_turns(), "places", final_lr_ratio=0.5),
    Stage("binding", _livecc, _on_turns(_binding, 16), 240, _muon_turns(), "words"),
    Step("features", partial(qwen_features, "livecc", "vision")),
    Stage("streams", _livecc, _on_turns({0: MANY}, 13, "vision"), 480, _muon_turns(), "binding"),  # 8 minutes
    # Comments take longer to learn than answers.
    Stage("speech", _livecc, _on_turns({0: MANY}, 19, "vision"), 800, _muon_turns(), "streams"),  # 14 minutes
    Stage("fluency", _livecc, _on_turns({0: MANY}, 20, "vision"), 900, _muon_turns(), "speech"),  # 15 minutes
    Step("export", partial(export_qwen, "livecc", "vision")),
)

_streamingvlm = partial(turn_learner, "streamingvlm")
_on_rounds = partial(_turns, "streamingvlm", vision_stage="sharper")
_rising = {0: FEW_ROUNDS, 100: MANY_ROUNDS}
_many = {0: MANY_ROUNDS}
STREAMINGVLM = (
    Stage("vision", partial(qwen_probe, "streamingvlm"), fresh(11), 320, muon(0.015, 2e-3)),  # 5 minutes
    Stage("sharper", partial(qwen_probe, "streamingvlm"), fresh(17), 220, muon(0.015, 2e-3), "vision"),  # 3 minutes
    Step("features", partial(qwen_features, "streamingvlm", "sharper")),
    Stage("streams", _streamingvlm, _on_rounds(_rising, 13), 300, _muon_turns()),
    Stage("longer", _streamingvlm, _on_rounds(_many, 18), 220, _muon_turns(), "streams"),  # 4 minutes
    Stage("speech", _streamingvlm, _on_rounds(_many, 19), 800, _muon_turns(), "longer"),  # 13 minutes
    Stage("fluency", _streamingvlm, _on_rounds(_many, 20), 900, _muon_turns(), "speech"),  # 15 minutes
    Step("export", partial(export_qwen, "streamingvlm", "sharper")),
)

RECIPES = {
    "rekv": REKV,
    "streamforest": STREAMFOREST,
    "dispider": DISPIDER,
    "livecc": LIVECC,
    "streamingvlm": STREAMINGVLM,
}

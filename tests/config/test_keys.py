"""The settings people type are a contract: this list changes only on purpose."""

from __future__ import annotations

from omegaconf import DictConfig

KEYS = """
seed baseline retry_failed objective print_config
video.reader video.timeout_s
measure.warmup_frames measure.warmup_questions measure.fidelity measure.token_maps
trainer.accelerator trainer.devices trainer.precision trainer.num_threads trainer.profiler
paths.output_dir paths.cache_dir paths.run_dir
report.cost report.baseline report.page report.token_maps report.wandb report.project
backbone.name backbone.checkpoint backbone.tokens_per_frame backbone.image_newline
backbone.max_new_tokens backbone.answer_reader backbone.revision
memory.name memory.n_local memory.topk memory.retrieval_chunk_size memory.max_cached_blocks memory.offload
memory.upstream_quirks
cacher.name cacher.interval cacher.update_ratio cacher.threshold cacher.max_update_ratio cacher.chunk_size
cacher.feature cacher.metric cacher.reuse cacher.selection_layer cacher.refresh_share cacher.refresh_threshold
cacher.protect_cls
pruner.name pruner.budget pruner.keep_ratio pruner.alpha pruner.window
dataset.name dataset.split dataset.limit dataset.fps dataset.root
logger.name
""".split()


def keys_of(cfg: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for key in cfg:
        node = cfg._get_node(key)
        is_group = isinstance(node, DictConfig)
        keys += keys_of(node, f"{prefix}{key}.") if is_group else [] if key == "_target_" else [f"{prefix}{key}"]
    return keys


def test_settings_of_the_default_run(settings):
    assert sorted(keys_of(settings())) == sorted(KEYS)

"""The non-dominated set, and which runs of a sweep get onto the picture."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from stc_lab.config.schema import ReportSettings
from stc_lab.report.baselines import missing_baselines, recent_match
from stc_lab.report.multirun import make_frontier
from stc_lab.results.axes import COSTS, TIMING_COLUMNS
from stc_lab.results.sweep import hypervolume, hypervolumes, line_labels, non_dominated, read_sweep

NO_PAGE = ReportSettings(page=False)  # the page has tests of its own


def add_run(folder: Path, accuracy: float | None, frame_ms: float, **settings) -> None:
    """A finished run as the predict loop leaves it."""
    flat = {"backbone.name": "rekv", "cacher.name": "none", "pruner.name": "stc", "dataset.name": "pocket",
            "pruner.num_tokens": 64, "cacher.interval": 2, **settings}  # fmt: skip
    key = repr(sorted(flat.items()))
    tokens = flat["pruner.num_tokens"]
    summary = {
        "run": {group: flat[f"{group}.name"] for group in ("backbone", "cacher", "pruner", "dataset")},
        "tokens_per_frame": {"requested": tokens, "achieved": float(tokens)},
        "update_ratio": 1.0, "accuracy": accuracy, "coverage": 1.0, "num_questions": 50,
        "accuracy_ci95": None if accuracy is None else [accuracy - 0.05, min(1.0, accuracy + 0.05)],
        "frame_ms": {"mean": frame_ms, "median": frame_ms, "p90": frame_ms, "iqr": 0.1, "num": 10},
        "ttft_ms": None, "flops_per_frame": {"vision": 1e9}, "kv_bytes": {"device": 1, "host": None},
        "peak_mem_gib": 1.0, "fingerprint": key,
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "fingerprint.json").write_text(json.dumps({"fingerprint": key, "settings": flat}))
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture()
def sweep_dir(tmp_path: Path) -> Path:
    for number, (tokens, accuracy, frame_ms) in enumerate([(16, 0.6, 10.0), (64, 0.8, 14.0), (128, 0.78, 20.0)]):
        add_run(tmp_path / f"stc{number}", accuracy, frame_ms, **{"pruner.num_tokens": tokens})
    add_run(tmp_path / "random0", 0.5, 9.0, **{"pruner.name": "random", "pruner.num_tokens": 16})
    add_run(tmp_path / "full", 0.82, 30.0, **{"pruner.name": "none", "pruner.num_tokens": 196})
    return tmp_path


def test_non_dominated_by_hand() -> None:
    accuracy = [0.5, 0.8, 0.8, 0.7, np.nan, 0.9]
    cost = [1.0, 3.0, 3.0, 3.5, 0.1, 9.0]
    assert non_dominated(accuracy, cost).tolist() == [True, True, True, False, False, True]


def test_non_dominated_set_equals_its_definition_on_random_points() -> None:
    rng = np.random.default_rng(0)
    accuracy, cost = rng.integers(0, 6, 40) / 6, rng.integers(0, 6, 40)
    mask = non_dominated(accuracy, cost)
    for i in range(40):
        beaten = any(
            accuracy[j] >= accuracy[i] and cost[j] <= cost[i] and (accuracy[j] > accuracy[i] or cost[j] < cost[i])
            for j in range(40)
        )
        assert mask[i] == (not beaten)


def test_sweep_counts_equal_runs_once_and_names_what_it_leaves_out(sweep_dir: Path) -> None:
    add_run(sweep_dir / "twice", 0.8, 14.0, **{"pruner.num_tokens": 64})
    add_run(sweep_dir / "stc0" / "baseline", 0.82, 30.0, **{"pruner.name": "none", "pruner.num_tokens": 196})
    add_run(sweep_dir / "broken", 0.99, 1.0, **{"pruner.num_tokens": 8})
    (sweep_dir / "broken" / "error.json").write_text(json.dumps({"reason": "it broke"}))
    (sweep_dir / "killed").mkdir()
    (sweep_dir / "killed" / "fingerprint.json").write_text("{}")
    (sweep_dir / "copy").mkdir()
    (sweep_dir / "copy" / "fingerprint.json").write_text("{}")
    (sweep_dir / "copy" / "duplicate_of.json").write_text("{}")
    sweep = read_sweep(sweep_dir)
    assert len(sweep.points) == 5
    assert sweep.left_out == {"broken": "it broke", "killed": "not finished: 0 questions recorded, no summary"}
    assert set(sweep.points.loc[sweep.points["is_non_dominated"], "requested_tokens"]) == {16, 64, 196}


def test_lines_are_named_after_what_differs_but_the_budget() -> None:
    base = {"backbone.name": "rekv", "cacher.name": "stc", "pruner.name": "stc", "dataset.name": "pocket"}
    runs = [{**base, "cacher.interval": n, "pruner.num_tokens": b} for n in (2, 4) for b in (16, 64)]
    assert line_labels(runs) == ["stc + stc (interval=2)"] * 2 + ["stc + stc (interval=4)"] * 2
    assert line_labels(runs[:2]) == ["stc + stc"] * 2


def test_files_and_picture(sweep_dir: Path) -> None:
    with (sweep_dir / "out.txt").open("w") as file:
        make_frontier(sweep_dir, Console(file=file, width=200), settings=NO_PAGE)
    content = json.loads((sweep_dir / "pareto.json").read_text())
    assert set(content["non_dominated"]) == {"random0", "stc0", "stc1", "full"}
    assert len((sweep_dir / "pareto.csv").read_text().splitlines()) == 6
    assert imread(sweep_dir / "pareto.png").std() > 0.05
    assert "80.0%" in (sweep_dir / "out.txt").read_text()


def test_a_sweep_without_scored_runs_still_gives_its_files(tmp_path: Path) -> None:
    add_run(tmp_path / "unlabelled", None, 3.0)
    make_frontier(tmp_path, Console(file=(tmp_path / "out.txt").open("w")), settings=NO_PAGE)
    assert json.loads((tmp_path / "pareto.json").read_text())["non_dominated"] == []


def test_hypervolume_by_hand() -> None:
    """Two steps: 0.5 high from cost 2 to 4, 0.8 high from 4 to 10."""
    accuracy, cost = [0.8, 0.5, 0.4, 0.99, np.nan], [4.0, 2.0, 3.0, 11.0, 1.0]
    assert hypervolume(accuracy, cost, 0.0, 10.0) == pytest.approx(0.5 * 2 + 0.8 * 6)
    assert hypervolume(accuracy, cost, 0.6, 10.0) == pytest.approx(0.2 * 6)
    assert hypervolume([0.5], [10.0], 0.0, 10.0) == 0


def test_hypervolume_equals_a_count_of_cells() -> None:
    rng = np.random.default_rng(1)
    accuracy, cost = rng.integers(1, 10, 12), rng.integers(0, 10, 12)
    area = [(row, column) for row in range(10) for column in range(10)]
    cells = sum(any(accuracy > row) and min(cost[accuracy > row]) <= column for row, column in area)
    assert hypervolume(accuracy, cost, 0, 10) == cells


def test_hypervolume_is_measured_against_the_uncompressed_run_of_the_backbone(sweep_dir: Path) -> None:
    (part,) = hypervolumes(read_sweep(sweep_dir).points, COSTS["latency"])
    assert part["reference"] == {"run": "full", "accuracy": 0.82, "latency_ms": 30.0}
    assert part["by_label"]["none + stc"]["share"] == pytest.approx((0.6 * 4 + 0.8 * 16) / (0.82 * 30))
    assert part["all"]["share"] > part["by_label"]["none + stc"]["share"] > part["by_label"]["none + random"]["share"]
    assert part["all"]["beyond"] == 0


def test_the_cost_decides_who_is_on_the_frontier(sweep_dir: Path) -> None:
    add_run(sweep_dir / "slow", 0.81, 90.0, **{"pruner.num_tokens": 32})
    by_cost = {cost: read_sweep(sweep_dir, cost).points for cost in ("latency", "tokens", "flops")}
    fronts = {cost: set(points.loc[points["is_non_dominated"], "run"]) for cost, points in by_cost.items()}
    assert "slow" not in fronts["latency"]
    assert "slow" in fronts["tokens"]
    assert fronts["flops"] == {"full"}
    with pytest.raises(ValueError, match=r"report.cost=speed: must be one of latency, flops"):
        read_sweep(sweep_dir, "speed")


def test_runs_on_other_questions_or_devices_are_not_compared(sweep_dir: Path) -> None:
    add_run(sweep_dir / "other", 0.99, 1.0, **{"dataset.name": "other"})
    add_run(sweep_dir / "shorter", 0.98, 1.0, data_digest="of fewer videos")
    points = read_sweep(sweep_dir).points
    assert points["benchmark"].nunique() == 3
    assert set(points.loc[points["is_non_dominated"], "run"]) == {"other", "shorter", "random0", "stc0", "stc1", "full"}


def test_several_sweeps_in_one_table(sweep_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    second = tmp_path_factory.mktemp("second")
    add_run(second / "new", 0.7, 11.0, **{"pruner.num_tokens": 32})
    add_run(second / "again", 0.8, 14.0, **{"pruner.num_tokens": 64})
    sweep = read_sweep([sweep_dir, second])
    assert len(sweep.points) == 6
    assert f"{second.name}/new" in set(sweep.points["run"])
    with pytest.raises(ValueError, match="no such folder"):
        read_sweep([sweep_dir, second / "nowhere"])


def test_the_order_of_rows_does_not_depend_on_times(tmp_path: Path) -> None:
    orders = []
    for folder, times in ((tmp_path / "a", (1.0, 2.0, 3.0)), (tmp_path / "b", (3.0, 1.0, 2.0))):
        for tokens, frame_ms in zip((16, 64, 128), times, strict=True):
            add_run(folder / f"t{tokens}", 0.5, frame_ms, **{"pruner.num_tokens": tokens})
        points = read_sweep(folder).points.drop(columns=[*TIMING_COLUMNS, "is_non_dominated"])
        orders.append(points.to_csv())
    assert orders[0] == orders[1]


def test_settings_without_effect_are_only_named_where_nothing_else_tells_runs_apart() -> None:
    names = {"backbone.name": "rekv", "cacher.name": "stc", "pruner.name": "stc", "dataset.name": "pocket"}
    always, four, seven = {"interval": 1}, {"interval": 4, "metric": "l1"}, {"interval": 7, "metric": "l1"}
    runs = [names | {f"cacher.{key}": value for key, value in chosen.items()} for chosen in (always, four, seven)]
    assert line_labels(runs) == [f"stc + stc (interval={n})" for n in (1, 4, 7)]
    by_ratio, by_threshold = names | {"cacher.update_ratio": 0.25}, names | {"cacher.threshold": 0.85}
    assert line_labels([by_ratio, by_threshold]) == ["stc + stc (update_ratio=0.25)", "stc + stc (threshold=0.85)"]


def add_memory_run(folder: Path, memory: str, tokens_read: float, accuracy: float, **settings) -> None:
    """A run without cacher and pruner of which questions read ``tokens_read`` tokens."""
    add_run(
        folder, accuracy, 10.0, **{"pruner.name": "none", "pruner.num_tokens": 196, "memory.name": memory, **settings}
    )
    summary = json.loads((folder / "summary.json").read_text())
    read = {"requested": settings.get("memory.budget"), "mean": tokens_read, "max_layer": tokens_read}
    summary["budgets"] = {"tokens_read": read, "bytes_kept": {"max": 2**20 * tokens_read}}
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture()
def memory_dir(tmp_path: Path) -> Path:
    add_memory_run(tmp_path / "rekv", "rekv", 800.0, 0.8, **{"memory.topk": 4})
    add_memory_run(tmp_path / "all", "all", 4000.0, 0.85)
    for budget, accuracy in ((400, 0.5), (784, 0.6)):
        add_memory_run(tmp_path / f"recent{budget}", "recent", budget, accuracy, **{"memory.budget": budget})
    return tmp_path


def test_the_memory_is_an_axis_and_old_runs_have_that_of_their_backbone(memory_dir: Path) -> None:
    points = read_sweep(memory_dir, "read_tokens").points.set_index("run")
    assert points["label"].to_dict() == {
        "rekv": "rekv: none + none", "all": "all: none + none", "recent400": "recent: none + none",
        "recent784": "recent: none + none"}  # fmt: skip
    assert points.loc["recent400", "memory_settings"] == "budget=400" and points.loc["all", "kept_mib"] == 4000
    assert points.loc[points["is_uncompressed"]].index.tolist() == ["all"]  # of four runs without cacher and pruner
    assert set(points.index[points["is_trivial"]]) == {"recent400", "recent784"}
    assert points["is_non_dominated"].all()
    add_run(memory_dir / "old", 0.7, 10.0)
    assert read_sweep(memory_dir).points.set_index("run").loc["old", "memory"] == "rekv"


def test_the_last_tokens_stand_beside_a_memory_or_the_report_says_how_to_run_them(memory_dir: Path) -> None:
    points = read_sweep(memory_dir).points
    rekv = points[points["run"] == "rekv"].iloc[0]
    assert recent_match(rekv, points) == ["recent784"]  # two percent fewer
    assert not any("memory" in note.text for note in missing_baselines(points))
    shutil.rmtree(memory_dir / "recent784")
    points = read_sweep(memory_dir).points
    assert recent_match(rekv, points) == []
    (note,) = [note for note in missing_baselines(points) if "memory" in note.text]
    assert note.command == "memory=recent memory.budget=800"


def test_plain_runs_of_one_memory_are_the_uncompressed_ones(tmp_path: Path) -> None:
    add_memory_run(tmp_path / "few", "rekv", 300.0, 0.6, **{"backbone.name": "llava_onevision", "memory.topk": 2})
    add_memory_run(tmp_path / "many", "rekv", 900.0, 0.7, **{"backbone.name": "llava_onevision", "memory.topk": 8})
    points = read_sweep(tmp_path).points.set_index("run")
    assert points["is_uncompressed"].to_dict() == {"few": False, "many": True}

"""The pocket world: deterministic, observable once a second, answerable from what was shown so far."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import av
import numpy as np
import pytest

from stc_lab.pocket.dataset import LONG_S, SHORT_S, ensure_streams, held_out_script
from stc_lab.pocket.world.labels import BACKGROUND, CLUTTER, cell_labels
from stc_lab.pocket.world.questions import ASK_DELAY_S, FAMILIES, sample_questions, times_so_far
from stc_lab.pocket.world.render import Renderer, codec_like, shape_mask, write_video
from stc_lab.pocket.world.script import MIN_DISTANCE_PX, Script, Track, sample_script
from stc_lab.pocket.world.vocabulary import COLORS, IMAGE_SIZE, SHAPES

SEEDS = range(60)


@pytest.fixture(scope="module")
def scripts() -> list[Script]:
    return [sample_script(seed, LONG_S if seed % 4 == 3 else SHORT_S) for seed in SEEDS]


def test_a_seed_is_a_stream(scripts):
    again = sample_script(5, SHORT_S)
    assert again == scripts[5] != scripts[6]
    np.testing.assert_array_equal(Renderer(again).frame(3.25), Renderer(scripts[5]).frame(3.25))


def test_events_lie_between_whole_seconds(scripts):
    for track in (track for script in scripts for track in script.tracks):
        moments = [t for interval in track.visible_s for t in interval] + [start for start, _ in track.colors[1:]]
        assert all(t == 0 or t % 1 == 0.5 or t > SHORT_S for t in moments)


def test_shapes_keep_apart_and_colors_differ_at_any_time(scripts):
    for script in scripts:
        for time_s in np.arange(0, script.duration_s, 0.5):
            shown = [track for track in script.tracks if track.is_visible(time_s)]
            assert len({track.color(time_s) for track in shown}) == len(shown)
            spots = np.array([track.position(time_s) for track in shown]).reshape(-1, 2)
            gaps = np.hypot(*(spots[:, None] - spots[None]).transpose(2, 0, 1)) + 1e3 * np.eye(len(spots))
            assert len(spots) < 2 or gaps.min() >= MIN_DISTANCE_PX


def test_the_world_has_all_that_it_promises(scripts):
    tracks = [track for script in scripts for track in script.tracks]
    assert {track.shape for track in tracks} == set(SHAPES)
    assert any(len(track.visible_s) > 1 for track in tracks)
    assert any(len(track.colors) > 1 for track in tracks)
    assert any(len(track.path) > 1 for track in tracks)
    assert any(script.cut_s for script in scripts)
    assert any(script.pan_px_per_s for script in scripts)
    assert all(10 <= track.size <= 14 for track in tracks)


def test_masks_differ_between_shapes():
    masks = [shape_mask(shape, 12) for shape in SHAPES]
    assert all(mask.shape == (12, 12) and 0 <= mask.min() < mask.max() <= 1 for mask in masks)
    assert min(abs(a - b).mean() for i, a in enumerate(masks) for b in masks[:i]) > 0.1
    with pytest.raises(ValueError, match="hexagon.*square"):
        shape_mask("hexagon", 12)


def test_labels_tell_where_a_shape_was_drawn():
    track = Track("square", 14, ((0.0, 9.0),), ((0.0, "red"),), ((0.0, 30.0, 70.0),))
    renderer = Renderer(Script(1, 8, (track,), noise_sigma=0.0))
    labels = cell_labels(renderer, np.zeros(1))
    assert labels.kind.shape == (1, 196) and set(np.unique(labels.kind)) <= {0, BACKGROUND, CLUTTER}
    rows, columns = np.divmod(np.flatnonzero(labels.is_object[0]), 14)
    cell = IMAGE_SIZE / 14
    assert abs((columns.mean() + 0.5) * cell - 30) < 4 and abs((rows.mean() + 0.5) * cell - 70) < 4
    assert np.linalg.norm(renderer.frame(0.0)[70, 30].astype(float) - COLORS["red"]) < 40


def test_questions_are_balanced_and_well_formed(scripts):
    questions = [q for script in scripts for q in sample_questions(script, 12)]
    assert set(Counter(q.group for q in questions)) == set(FAMILIES)
    letters = Counter(q.answer for q in questions)
    assert max(letters.values()) - min(letters.values()) < 0.1 * len(questions)
    assert {q.task for q in questions} == {asker.__name__ for askers in FAMILIES.values() for asker in askers}
    for q in questions:
        assert len(set(q.options)) == 4 and q.time_s % 1 == pytest.approx(ASK_DELAY_S)


def test_answers_do_not_depend_on_the_future(scripts):
    for script in scripts:
        time_s = script.duration_s // 2 + ASK_DELAY_S
        known = replace(script, tracks=tuple(_until(k, time_s) for k in script.tracks if k.first_s <= time_s))
        for asker in {asker for askers in FAMILIES.values() for asker in askers} - {times_so_far}:
            with_future = asker(np.random.default_rng(3), script, time_s)
            assert asker(np.random.default_rng(3), known, time_s) == with_future, asker.__name__


def test_times_so_far_counts_what_has_begun(scripts):
    """Which shape is asked about may hint at the future (one that blinks later), its answer may not."""
    for script in scripts:
        asked = times_so_far(np.random.default_rng(3), script, 6.2)
        if asked:
            (track,) = [k for k in script.tracks if f" {k.shape} " in asked[0]]
            assert int(asked[1]) == sum(start < 6.2 for start, _ in track.visible_s)


def _until(track: Track, time_s: float) -> Track:
    """The track as an observer knows it: later visits and colours cut off (a visit that is on goes on for ever)."""
    visits = [(a, b if b <= time_s else 1e9) for a, b in track.visible_s if a <= time_s]
    colors = [c for c in track.colors if c[0] <= time_s or c == track.colors[0]]
    return replace(track, visible_s=tuple(visits), colors=tuple(colors))


def test_video_file_shows_the_script(tmp_path):
    renderer = Renderer(sample_script(2, SHORT_S))
    write_video(renderer, tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == SHORT_S * 4
    error = np.stack(frames[::8]).astype(float) - np.stack([renderer.frame(t) for t in range(0, SHORT_S, 2)])
    assert 10 * np.log10(255**2 / (error**2).mean()) > 26


def test_codec_stand_in_loses_about_as_much_as_a_codec():
    frame = Renderer(sample_script(2, SHORT_S)).frame(1.0)[None]
    error = codec_like(frame, np.random.default_rng(0)).astype(float) - frame
    assert 24 < 10 * np.log10(255**2 / (error**2).mean()) < 40


def test_streams_are_made_once(tmp_path):
    streams = ensure_streams(tmp_path, "dev", 2)
    made = {s.video: s.video.stat().st_mtime_ns for s in streams}
    more = ensure_streams(tmp_path, "dev", 3)
    assert more[:2] == streams and made == {s.video: s.video.stat().st_mtime_ns for s in more[:2]}
    assert held_out_script("dev", 3).duration_s == LONG_S and held_out_script("test", 0) != held_out_script("dev", 0)
    times = [q.time_s for q in streams[0].questions]
    assert times == sorted(times) and len(times) >= 10 and times[-1] < SHORT_S


@pytest.mark.parametrize(("split", "limit", "message"), [("train", 1, "dev, test"), ("dev", 0, "at least 1")])
def test_wrong_settings_are_named(tmp_path, split, limit, message):
    with pytest.raises(ValueError, match=message):
        ensure_streams(tmp_path, split, limit)

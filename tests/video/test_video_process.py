"""The decoder process: kept over files, ended when a read hangs, gone when its owner is."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from stc_lab.video import DecoderProcess, VideoError, open_video

# Stands in for decord in the decoder process: serves a 25 fps file up to frame 49, then does as `{trouble}` says.
STAND_IN = """
import os, signal, time
import numpy as np
class DECORDError(Exception): pass
class DECORDLimitReachedError(Exception): pass
class logging:
    QUIET = 0
    set_level = staticmethod(lambda level: None)
class VideoReader:
    def __init__(self, path, num_threads, fault_tol): self.position = 0
    def get_key_indices(self): return [0]
    def skip_frames(self, num): self.position += num
    def __len__(self): return 100
    def get_frame_timestamp(self, indices): return np.array([[i / 25, (i + 1) / 25] for i in indices])
    def next(self):
        if self.position >= 50: {trouble}
        self.position += 1
        return np.full((48, 64, 3), self.position - 1, np.uint8)
"""


@pytest.fixture
def troubled_decord(tmp_path: Path, monkeypatch):
    """Puts a decord that gets into trouble on the module path that a decoder process inherits."""

    def install(trouble: str) -> None:
        folder = tmp_path / "stand_in"
        folder.mkdir(exist_ok=True)
        (folder / "decord.py").write_text(STAND_IN.format(trouble=trouble))
        monkeypatch.syspath_prepend(str(folder))

    return install


def is_alive(pid: int) -> bool:
    """Whether a process runs (an ended one that nobody waited for does not)."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return state != "" and not state.startswith("Z")


def wait_until_gone(pid: int, limit_s: float = 20.0) -> bool:
    end = time.monotonic() + limit_s
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not is_alive(pid)


def test_one_process_for_many_files(clip: Path) -> None:
    with DecoderProcess() as process:
        assert process.pid is None
        pids = set()
        for _ in range(3):
            with open_video(clip, fps=5.0, process=process) as source:
                next(iter(source))
                pids.add(process.pid)
        assert len(pids) == 1
    assert process.pid is None and not is_alive(pids.pop())


def test_process_of_its_own_ends_with_the_source(clip: Path) -> None:
    with open_video(clip) as source:
        pid = source._own_process.pid
        assert is_alive(pid) and next(iter(source)).index == 0
    assert not is_alive(pid)


def test_bad_file_leaves_the_process_usable(videos, clip: Path, process: DecoderProcess) -> None:
    with pytest.raises(VideoError):
        open_video(videos.data("text.mp4", b"text"), process=process)
    pid = process.pid
    with open_video(clip, process=process) as source:
        assert len(list(source)) == 4
    assert process.pid == pid


def test_only_the_last_opened_file_can_be_read(clip: Path, process: DecoderProcess) -> None:
    first = open_video(clip, process=process)
    with open_video(clip, process=process) as second:
        with pytest.raises(RuntimeError, match="no longer open"):
            list(first)
        first.close()
        assert len(list(second)) == 4


def test_hanging_read_is_ended_after_the_good_frames_and_the_next_file_gets_a_new_process(
    troubled_decord, clip: Path
) -> None:
    troubled_decord("time.sleep(1000)")
    with DecoderProcess() as process:
        with open_video(clip, fps=5.0, process=process) as source:
            pid = process.pid
            assert len(list(source.frames(until_s=1.8))) == 10
            source._file.timeout_s = 0.5  # only now: on a busy machine the good reads may take longer
            with pytest.raises(VideoError, match="took more than 0.5 s") as caught:
                list(source)
            assert caught.value.kind == "timeout"
            assert process.pid is None and not is_alive(pid)
            with pytest.raises(VideoError, match="took more than"):
                list(source)
        with open_video(clip, reader="pyav", process=process) as source:
            assert len(list(source)) == 4 and process.pid != pid


def test_crash_of_the_decoder_is_an_error_of_the_file(troubled_decord, clip: Path) -> None:
    troubled_decord("os.kill(os.getpid(), signal.SIGSEGV)")
    with DecoderProcess() as process:
        source = open_video(clip, fps=5.0, process=process)
        with source, pytest.raises(VideoError, match="signal 11") as caught:
            list(source)
        assert caught.value.kind == "unreadable"
        with open_video(clip, reader="pyav", process=process) as source:
            assert len(list(source)) == 4


def test_bug_is_not_taken_for_a_bad_file(troubled_decord, clip: Path) -> None:
    troubled_decord("raise KeyError('a bug')")
    with open_video(clip, fps=5.0) as source, pytest.raises(RuntimeError, match="a bug") as caught:
        list(source)
    assert not isinstance(caught.value, VideoError)


def test_missing_decord_is_said_once(troubled_decord, tmp_path: Path, clip: Path, caplog) -> None:
    troubled_decord("")
    (tmp_path / "stand_in" / "decord.py").write_text("raise ImportError('no wheel for this machine')")
    caplog.set_level(logging.INFO)
    with DecoderProcess() as process:
        for _ in range(2):
            with open_video(clip, process=process) as source:
                assert source.info.reader == "pyav" and "no wheel" in source.info.fallback
                assert len(list(source)) == 4
    assert [r.levelname for r in caplog.records if "PyAV, not decord" in r.getMessage()] == ["WARNING", "INFO"]


def test_interrupt_while_waiting_leaves_nothing_under_way(clip: Path, process: DecoderProcess, monkeypatch) -> None:
    with open_video(clip, fps=5.0, process=process) as source:
        next(iter(source))
        pid = process.pid
        monkeypatch.setattr("stc_lab.video.process._receive", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            next(iter(source))
        monkeypatch.undo()
    assert not is_alive(pid)
    with open_video(clip, process=process) as source:
        assert [frame.index for frame in source] == [0, 25, 50, 75]


def test_cannot_be_sent_to_another_process(process: DecoderProcess) -> None:
    with pytest.raises(TypeError, match="make one there"):
        pickle.dumps(process)


@pytest.mark.parametrize("read_ahead", [0, -1, 1.5, True])
def test_wrong_read_ahead(read_ahead: object) -> None:
    with pytest.raises(ValueError, match="read_ahead="):
        DecoderProcess(read_ahead=read_ahead)


def run_owner(code: str, *arguments: object) -> subprocess.Popen:
    """A Python program that owns a decoder process."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_decoder_dies_with_a_killed_owner_even_while_reading_hangs(troubled_decord, clip: Path) -> None:
    troubled_decord("time.sleep(1000)")
    owner = run_owner(
        """
        import sys
        from stc_lab.video import DecoderProcess, open_video
        process = DecoderProcess()
        source = open_video(sys.argv[1], fps=5.0, process=process)
        print(process.pid, flush=True)
        list(source)
        """,
        clip,
    )
    pid = int(owner.stdout.readline())
    assert is_alive(pid)
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    assert wait_until_gone(pid)


def test_owner_that_forgets_to_close_ends_quietly(clip: Path) -> None:
    """No guard on the main module is needed, nothing is printed at exit, and torch stays out of it all."""
    owner = run_owner(
        """
        import sys
        from stc_lab.video import DecoderProcess, open_video
        process = DecoderProcess()
        source = open_video(sys.argv[1], fps=5.0, process=process)
        next(iter(source))
        print(process.pid)
        here = open_video(sys.argv[1], in_process=True)
        assert len(list(here)) == 4
        import stc_lab.video.worker
        assert "torch" not in sys.modules, "the decoder process would import torch"
        """,
        clip,
    )
    output, errors = owner.communicate(timeout=60)
    assert owner.returncode == 0 and errors == ""
    assert wait_until_gone(int(output))

"""What is written down about the machine."""

from __future__ import annotations

import json

import torch

from stc_lab.config import environment
from stc_lab.config.environment import PACKAGES


def test_environment_is_plain_and_complete():
    present = environment()
    assert json.loads(json.dumps(present)) == present
    assert set(present["packages"]) == set(PACKAGES)
    assert present["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    assert present["torch"]["num_threads"] == torch.get_num_threads()
    assert set(present["torch"]["attention"]["enabled_kernels"]) == {"flash", "memory_efficient", "cudnn", "math"}
    for key in ("time", "command", "stc_lab", "python", "platform", "cpu"):
        assert present[key]


def test_commit_is_known_in_a_checkout():
    revision = environment()["git"]
    assert revision is None or len(revision["commit"]) == 40

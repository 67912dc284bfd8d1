"""Train a pocket model: ``python -m stc_lab.training.train --model rekv``; killed and started again, it goes on.

Logs and checkpoints of the stages lie in ``--folder``; the last stage writes the result where
``backbone=<model> backbone.checkpoint=pocket`` finds it. See ``docs/pocket.md``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from stc_lab.training.recipes import RECIPES


def main() -> None:
    """Command line: ``--model``, ``--stages``, ``--folder``, ``--threads``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="rekv", choices=tuple(RECIPES))
    parser.add_argument("--stages", nargs="+", help="default: all of the model, in order")
    parser.add_argument("--folder", type=Path, help="default: outputs/pocket_training/<model>")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    stages = {stage.name: stage for stage in RECIPES[arguments.model]}
    chosen = arguments.stages or list(stages)
    if unknown := [name for name in chosen if name not in stages]:
        parser.error(f"--stages: {', '.join(unknown)} unknown; {arguments.model} has {', '.join(stages)}")
    torch.set_num_threads(arguments.threads)
    for name in chosen:
        stages[name].run(arguments.folder or Path("outputs/pocket_training") / arguments.model)


if __name__ == "__main__":
    main()

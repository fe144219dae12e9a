"""Evaluates a trained mapper: `python evaluate.py --checkpoint runs/demo/checkpoints/best.ckpt --output runs/demo`."""

import sys
from pathlib import Path

from clipmapper.cli import parse_evaluation

if __name__ == "__main__":
    settings = parse_evaluation(sys.argv[1:], Path(__file__).parent / "configs")
    from clipmapper.evaluation import run

    run(settings)

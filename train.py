"""Trains a mapper over a frozen CLIP: `python train.py --config mapper_b_vqa [--any.key value ...]`."""

import sys
from pathlib import Path

from clipmapper.cli import parse_training

if __name__ == "__main__":
    settings = parse_training(sys.argv[1:], Path(__file__).parent / "configs")
    from clipmapper.training import run  # torch is imported only once the command line is right

    run(settings)

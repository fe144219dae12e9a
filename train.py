"""Trains a mapper over a frozen CLIP: `python train.py --config mapper_b_vqa [--any.key value ...]`."""

import sys
from pathlib import Path

if __name__ == "__main__":  # imports too: the processes that draw Shapes import this file, and need none of it
    from clipmapper.errors import messages

    with messages():  # Ctrl-C may come while the rest is imported
        from clipmapper.cli import parse_training

        settings = parse_training(sys.argv[1:], Path(__file__).parent / "configs")
        from clipmapper.training.run import run  # slow, and not needed to say what is wrong with the command line

        run(settings)

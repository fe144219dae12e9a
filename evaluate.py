"""Evaluates models: `python evaluate.py --model runs/demo/checkpoints/best.ckpt --output runs/demo`.

With a benchmark's name before the options it runs that one of the papers: `python evaluate.py imagenet --help`.
"""

import os
import sys
from pathlib import Path

# threads that wait and do not sleep hold up others where cores are busy
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if __name__ == "__main__":  # imports too: the processes that draw Shapes import this file, and need none of it
    from clipmapper.errors import messages

    with messages():  # Ctrl-C may come while the rest is imported
        if sys.argv[1:] and not sys.argv[1].startswith("-"):
            from clipmapper.evaluation.papers import main

            main(sys.argv[1:])
        else:
            from clipmapper.evaluation.command import parse_evaluation

            settings = parse_evaluation(sys.argv[1:], Path(__file__).parent / "configs")
            from clipmapper.evaluation.run import run  # slow, and not needed to say what is wrong with the command line

            run(settings)

"""`python -m clipmapper.truth --model MODEL --output DIR`: another name of a benchmark without removal, on Shapes.

The same as `python evaluate.py --model MODEL --data.root data/shapes --benchmark.methods all --benchmark.removal false`.
`why.png` shows some questions under the methods whose relevance falls most on the deciding objects.
"""

if __name__ == "__main__":  # ahead of what takes seconds to import, in which Ctrl-C and errors are one line too
    from clipmapper.errors import run_module

    run_module(__spec__.name)

import sys

from clipmapper.cli import renamed
from clipmapper.commands import evaluate

DEFAULTS = {  # the options of the benchmark, and their values here
    "--data.root": "data/shapes",
    "--benchmark.methods": "all",
    "--benchmark.removal": "false",
    "--benchmark.samples": "500",
    "--benchmark.cost_samples": "0",
}
ALIASES = {"--root": "--data.root", "--methods": "--benchmark.methods", "--samples": "--benchmark.samples"}
ALIASES |= {"--seed": "--benchmark.seed", "--batch_size": "--benchmark.batch_size", "--device": "--accelerator"}


def main() -> None:
    """Runs the benchmark."""
    words = renamed(sys.argv[1:], ALIASES)
    present = {word.partition("=")[0] for word in words}
    words += [f"{name}={value}" for name, value in DEFAULTS.items() if name not in present]
    evaluate([*words, "--data.shapes", "{}"], "python -m clipmapper.truth")

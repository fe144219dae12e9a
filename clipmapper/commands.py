"""The commands, whatever starts them: `clipmapper train`, `python -m clipmapper train`, or `python train.py` in a checkout."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from clipmapper.errors import messages, run_module, unknown
from clipmapper.files import require_writable

# Named configurations: in the package a link to those of the checkout, whose place is looked at where links are no files.
_HERE = Path(__file__).parent
CONFIGS = next(
    (folder for folder in (_HERE / "configs", _HERE.parent / "configs") if folder.is_dir()), _HERE / "configs"
)


def train(arguments: Sequence[str], program: str = "clipmapper train") -> None:
    """Trains a mapper over a frozen CLIP: train --config mapper_b_vqa [--any.key value ...]."""
    from clipmapper.cli import parse_training

    settings = parse_training(arguments, CONFIGS, program)
    require_writable(settings.run.dir)
    if (cache := settings.data.cache) is not None and not any(cache.glob("*/*.arrow")):  # a whole one may be read alone
        require_writable(cache)
    from clipmapper.training.run import run  # slow, and not needed to say what is wrong with the command line

    run(settings)


def evaluate(arguments: Sequence[str], program: str = "clipmapper evaluate") -> None:
    """Evaluates models and compares explainers: evaluate --model MODEL --output DIR, or a benchmark of the papers by name."""
    # threads that wait and do not sleep hold up others where cores are busy
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if arguments and not arguments[0].startswith("-"):
        from clipmapper.evaluation.papers import main as benchmark_of_the_papers

        benchmark_of_the_papers(arguments, program)
        return
    from clipmapper.evaluation.command import parse_evaluation

    settings = parse_evaluation(arguments, CONFIGS, program)
    require_writable(settings.output)
    from clipmapper.evaluation.run import run

    run(settings)


def benchmark(arguments: Sequence[str], program: str = "clipmapper benchmark") -> None:
    """Compares explainers: evaluate with --explainers all, unless it names others."""
    named = any(argument.split("=")[0] in ("--explainers", "--benchmark.methods") for argument in arguments)
    evaluate([*arguments, *([] if named else ["--explainers", "all"])], program)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {"train": train, "evaluate": evaluate, "benchmark": benchmark}
MODULES = {  # commands that are modules: `python -m` starts them too
    "app": ("clipmapper.app.__main__", "Shows a web page to ask models about pictures and see why they answer so"),
    "truth": ("clipmapper.truth", "Compares explainers by location alone, on Shapes"),
    "shapes": ("clipmapper.data.shapes.__main__", "Writes Shapes, the embedded data set"),
    "download": ("clipmapper.download", "Fetches VQAv2 and COCO"),
    "export": ("clipmapper.export", "Writes a checkpoint as a folder for from_pretrained"),
    "pretrain": ("clipmapper.pretrain", "Pretrains the CLIP of Shapes"),
}


def run(command: Callable[..., None], program: str) -> None:
    """Runs a command with the words of the command line; what goes wrong is told in one line, also while it is imported."""
    with messages():
        command(sys.argv[1:], program)


def main() -> None:
    """The console command."""
    name, arguments = (sys.argv[1] if sys.argv[1:] else "--help"), sys.argv[2:]
    with messages():
        if name in ("-h", "--help"):
            print(overview())
        elif name == "--version":
            from importlib.metadata import version

            print(version("clipmapper"))
        elif name in COMMANDS:
            COMMANDS[name](arguments)
        elif name in MODULES:
            sys.argv = [f"clipmapper {name}", *arguments]
            run_module(MODULES[name][0])
        else:
            raise unknown("command", name, [*COMMANDS, *MODULES])


def overview() -> str:
    """Returns what there is to run, a line each."""
    texts = {name: (command.__doc__ or "").partition(":")[0] for name, command in COMMANDS.items()}
    texts |= {name: text for name, (_, text) in MODULES.items()}
    lines = [f"  {name:<9} {text}" for name, text in texts.items()]
    return "\n".join(
        ["usage: clipmapper COMMAND [options]", "", *lines, "", "clipmapper COMMAND --help tells its options."]
    )

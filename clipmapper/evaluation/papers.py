"""`python evaluate.py BENCHMARK --model MODEL --output DIR ...`: the benchmarks of the papers by name."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clipmapper.benchmark.run import method_names
from clipmapper.benchmark.run import run as benchmark
from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.tasks.classes import ClassesSettings, ClassesTask
from clipmapper.benchmark.tasks.detection import DetectionSettings, DetectionTask
from clipmapper.benchmark.tasks.rationales import RationalesSettings, RationalesTask
from clipmapper.benchmark.tasks.segmentation import SegmentationSettings, SegmentationTask
from clipmapper.benchmark.tasks.source import PaperSettings
from clipmapper.cli import Parser, renamed
from clipmapper.errors import messages, unknown
from clipmapper.evaluation.command import loggers_of
from clipmapper.evaluation.logged import log_results
from clipmapper.files import require_writable, write_json
from clipmapper.logs import require_loggers
from clipmapper.models.fingerprint import weights_fingerprint
from clipmapper.processes import launched

COMMANDS: dict[str, tuple[type[PaperSettings], Any]] = {
    "imagenet": (ClassesSettings, ClassesTask),
    "segmentation": (SegmentationSettings, SegmentationTask),
    "detr": (DetectionSettings, DetectionTask),
    "rationales": (RationalesSettings, RationalesTask),
}
ALIASES = {  # other names of options; they stay
    "--methods": "--benchmark.methods",
    "--samples": "--benchmark.samples",
    "--batch_size": "--benchmark.batch_size",
    "--pictures": "--benchmark.gallery",
    "--perturbed": "--benchmark.removal_batch",
}


def main(arguments: Sequence[str], program: str = "python evaluate.py") -> None:
    """Runs the benchmark that the first word names; leaves with a message on bad input."""
    with messages():
        settings, config, loggers, task_of = parse(arguments, program)
        require_loggers(loggers)
        require_writable(settings.output)
        method_names(config)  # an unknown one is told before the data are read
    with messages(settings.output):
        metrics = run(task_of(settings, config), settings, config)
        log_results(
            loggers, settings.output, arguments[0], Path(settings.model), metrics["settings"], {"explainers": metrics}
        )


def run(task: Any, settings: PaperSettings, config: BenchmarkConfig) -> dict[str, Any]:
    """Benchmarks a task and writes metrics.json; returns what it holds."""
    outcome = benchmark(task, config, settings.output)
    model = {"source": settings.model, "class": type(task.module).__name__, "weights": weights_fingerprint(task.module)}
    plain = {name: str(v) if isinstance(v, Path) else v for name, v in {**asdict(settings), **asdict(config)}.items()}
    metrics = {"model": model, "settings": plain, **outcome.metrics}
    if launched().first:
        write_json(settings.output / "metrics.json", metrics)
        print(f"written: {settings.output / 'metrics.json'}, {settings.output / 'report.html'}", flush=True)
    return metrics


def parse(
    arguments: Sequence[str], program: str = "python evaluate.py"
) -> tuple[PaperSettings, BenchmarkConfig, list[str], Any]:
    """Returns the settings, the loggers and the task's class.

    Raises:
        ValueError: an unknown benchmark, or settings that do not fit.
    """
    name = arguments[0]
    if name not in COMMANDS:
        raise unknown("benchmark", name, COMMANDS)
    kind, task_of = COMMANDS[name]
    description = (kind.__doc__ or "").partition("\n")[0]
    parser = Parser(prog=f"{program} {name}", description=description, allow_abbrev=False)
    parser.add_class_arguments(kind)
    parser.add_class_arguments(BenchmarkConfig, "benchmark")
    parser.add_argument("--loggers", type=list[str], default=[], help="as of evaluate.py: wandb, csv, tensorboard")
    parser.set_defaults({"benchmark.methods": "papers", "benchmark.samples": None})
    words = renamed(arguments[1:], ALIASES)
    values = parser.parse_args(words).as_dict()
    loggers = loggers_of(values.pop("loggers"), {word.partition("=")[0] for word in words})
    return (
        kind(**{k: v for k, v in values.items() if k != "benchmark"}),
        BenchmarkConfig(**values["benchmark"]),
        loggers,
        task_of,
    )

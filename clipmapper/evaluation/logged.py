"""The results of an evaluation in the loggers that were asked for: metrics, tables, curves, pictures, and all files."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from clipmapper.benchmark.curves import of_values
from clipmapper.logs import finish, log_curves, log_examples, log_files, log_table, make_loggers, use_artifact
from clipmapper.logs.memory import artifact_of
from clipmapper.processes import launched

PICTURES = {  # files of an evaluation -> what they show
    "examples.png": "what the model says, and what is right",
    "why.png": "where explainers see the reason for answers",
    "curves.png": "removal curves",
    "filmstrips.png": "captions, word by word",
}
FILES = (
    "metrics.json",
    "predictions.json",
    "captions.json",
    "samples.parquet",
    "values.parquet",
    "report.html",
    *PICTURES,
)
STEP = 0  # an evaluation has no steps


def log_results(
    names: Sequence[str], output: Path, label: str, model: Path, config: Mapping[str, Any], metrics: Mapping[str, Any]
) -> None:
    """Logs what an evaluation has written.

    In W&B the run uses the artifact of the checkpoint, if its training logged one, and its own has all files.

    Args:
        names: of the loggers; none logs nothing.
        output: folder of the evaluation.
        label: of the model, which names the run.
        model: the checkpoint or folder that was evaluated; a name or a hub id has no artifact of ours.
        config: the settings.
        metrics: the content of metrics.json.
    """
    if not names or not launched().first:
        return
    loggers = make_loggers(names, output, "clipmapper", Path(label).name, config, job="evaluation")
    used = artifact_of(model)
    if used is not None:
        use_artifact(loggers, used)
    for logger in loggers:
        logger.log_metrics(dict(numbers(metrics)), STEP)
    if explainers := metrics.get("explainers"):
        log_table(loggers, "explain/methods", *methods_table(explainers), STEP)
    if (values := output / "values.parquet").is_file() and explainers:
        log_curves(loggers, "explain/curves", of_values(pq.read_table(values)), STEP)
    for name, caption in PICTURES.items():
        if (path := output / name).is_file():
            with Image.open(path) as picture:
                log_examples(loggers, f"pictures/{path.stem}", [picture.convert("RGB")], [caption], STEP)
    about = {"model": label, "checkpoint": used}
    log_files(loggers, "evaluation", "evaluation", [output / name for name in FILES], ["latest"], about)
    finish(loggers)


def numbers(metrics: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """Yields all numbers of metrics.json by their path, of explainers the means by "explain/metric/method"."""
    for name, value in metrics.items():
        path = f"{above}/{name}" if above else str(name)
        if path == "explainers":
            for method, entry in value["methods"].items():
                means = {key: interval["mean"] for key, interval in entry["metrics"].items()}
                yield from ((f"explain/{key}/{method}", mean) for key, mean in means.items() if mean is not None)
        elif isinstance(value, Mapping):
            yield from numbers(value, path)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield path, value


def methods_table(explainers: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows: a method each, of every metric its mean and interval, what it costs, why it failed."""
    methods = explainers["methods"]
    keys = list(dict.fromkeys(key for entry in methods.values() for key in entry["metrics"]))
    ends = ("mean", "low", "high")
    columns = ["method", *(key if end == "mean" else f"{key} {end}" for key in keys for end in ends)]
    rows = []
    for name, entry in methods.items():
        means = [entry["metrics"].get(key, {}).get(end) for key in keys for end in ends]
        rows.append([name, *means, entry["samples"], entry["cost"].get("seconds"), entry["error"] or ""])
    return [*columns, "samples", "seconds each", "error"], rows

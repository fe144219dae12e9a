"""The evaluation of each model: its answers or captions scored, and its explainers compared."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser

from clipmapper.benchmark.run import method_names
from clipmapper.config import DataConfig, ModelConfig, ModelSource
from clipmapper.data.records import load_records
from clipmapper.errors import messages
from clipmapper.evaluation.answers import evaluate_answers
from clipmapper.evaluation.captions import evaluate_captions
from clipmapper.evaluation.command import EvaluationSettings, merged, refuse
from clipmapper.evaluation.logged import log_results
from clipmapper.evaluation.prediction import mapper_of
from clipmapper.evaluation.side_by_side import side_by_side
from clipmapper.explain.models.base import VQAModel
from clipmapper.explain.models.load import load_model, needs_answers
from clipmapper.files import write_json
from clipmapper.logs import quiet_lightning, require_loggers
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.processes import launched, own_device


def run(settings: EvaluationSettings) -> None:
    """Evaluates every model of the settings; leaves with a message on bad input."""
    quiet_lightning()
    with messages(settings.output):
        evaluate(settings)


def evaluate(settings: EvaluationSettings) -> None:
    """Writes metrics.json and what belongs to it for each model, and beside several models a table of all.

    Raises:
        MissingData, BadData, ValueError, OSError: bad input, naming it and the remedy.
    """
    if settings.benchmark is not None:
        method_names(settings.benchmark)  # an unknown one is told before the data are read
    require_loggers(settings.loggers)
    several = len(settings.models) > 1
    metrics = {}
    for source in settings.models:
        folder = settings.output / file_name(source.label) if several else settings.output
        metrics[source.label] = evaluate_model(source, settings, folder)
        config = {"model": asdict(source), "split": settings.split, "data": settings.data}
        config |= {"benchmark": asdict(settings.benchmark)} if settings.benchmark else {}
        log_results(settings.loggers, folder, source.label, Path(source.name), config, metrics[source.label])
    if several and launched().first:
        table, rows = side_by_side(metrics)
        write_json(settings.output / "side_by_side.json", rows)
        print(f"{table}\nwritten: {settings.output / 'side_by_side.json'}", flush=True)


def evaluate_model(source: ModelSource, settings: EvaluationSettings, output: Path) -> dict[str, Any]:
    """Returns what metrics.json of a model holds."""
    common = common_answers(data_config({}, settings.data)) if needs_answers(source) else ()
    model, trained_on = load_model(source, common), {}
    mapper = mapper_of(model)
    if mapper is not None:
        trained_on = mapper.extra.get("data", {})
        if settings.model is not None and kind(settings.model) != kind(mapper.config):
            raise ValueError(
                f"{source.label} is {kind(mapper.config)}, the configuration is {kind(settings.model)}: "
                "leave --config out or name the one it was trained with"
            )
    data = data_config(trained_on, settings.data)
    model.to(own_device(torch.device(device_of(settings.accelerator))))
    output.mkdir(parents=True, exist_ok=True)
    if isinstance(model, VQAModel) or (isinstance(model, CLIPMapper) and model.config.task == "vqa"):
        refuse(settings, ("--judge", "--decoding."), f"{source.label} answers questions")
        return evaluate_answers(model, source, data, settings, output)
    return evaluate_captions(model, data, settings, output)


def common_answers(data: DataConfig) -> list[str]:
    """Returns the answers of the training questions, the commonest first."""
    return [answer for answer, _ in Counter(load_records(data).train["answer"]).most_common()]


def data_config(trained_on: Mapping[str, Any], values: Mapping[str, Any]) -> DataConfig:
    """Returns the data that a model was trained on, with the values of the command line in their places."""
    parser = ArgumentParser()
    parser.add_class_arguments(DataConfig, "data")
    parsed = parser.parse_object({"data": merged(dict(trained_on), dict(values))})
    return parser.instantiate(parsed).data


def device_of(accelerator: str) -> str:
    """Returns "cuda" or "cpu"; raises ValueError for a GPU that is not there."""
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ValueError("--accelerator gpu: torch finds no CUDA device; give cpu or auto")
    return "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"


def kind(config: ModelConfig) -> str:
    return f"mapper {config.mapper} over {config.clip} for {config.task}"


def file_name(label: str) -> str:
    """Returns a folder's name for a model's."""
    return "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in label).strip("-.") or "model"

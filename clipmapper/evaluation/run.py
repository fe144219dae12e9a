"""Official VQA accuracy of a checkpoint, its floors beside it, and the file the VQA evaluation server takes."""

import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from jsonargparse import ArgumentParser

from clipmapper.cli import EvaluationSettings
from clipmapper.comparison.explained import chosen
from clipmapper.comparison.run import Compared, Plan, compare
from clipmapper.config import DataConfig, ModelConfig, OptimizerConfig
from clipmapper.data.answers import AnswerVocabulary, vqa_accuracy
from clipmapper.data.files import BadData, MissingData, column
from clipmapper.data.records import load_split
from clipmapper.data.vqa import ANSWER_TYPES, Questions
from clipmapper.evaluation.captions import evaluate_captions
from clipmapper.evaluation.gallery import save_gallery
from clipmapper.evaluation.prediction import predictions
from clipmapper.files import write_json
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.processes import launched
from clipmapper.training.logs import quiet_lightning
from clipmapper.training.run import FLOORS
from clipmapper.training.sources import trained, trained_with
from clipmapper.training.tasks import VQATask
from clipmapper.truth.scores import choose

UNANSWERED = "yes"  # what the evaluation server gets for a question whose image cannot be read


@dataclass(frozen=True)
class Answered:
    """The model's answers to the questions of a split: row -> answer, and the official accuracy of each, 0..1."""

    questions: Questions
    answers: dict[int, str]
    accuracy: dict[int, float]


def run(settings: EvaluationSettings) -> None:
    """Writes metrics.json, examples.png, and predictions.json or captions.json. Leaves with a message on bad input."""
    quiet_lightning()
    try:
        evaluate(settings)
    except (MissingData, BadData, ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def evaluate(settings: EvaluationSettings) -> None:
    model, data = load(settings)
    if model.config.task == "caption":
        evaluate_captions(model, data, settings)
    else:
        evaluate_answers(model, data, settings)


def evaluate_answers(model: CLIPMapper, data: DataConfig, settings: EvaluationSettings) -> None:
    methods = () if settings.explainers is None else chosen(settings.explainers)
    answered = answer_split(model, data, settings)
    settings.output.mkdir(parents=True, exist_ok=True)
    if settings.split.startswith("test"):
        path = settings.output / f"vqa_{settings.split}_results.json"
        write_json(path, server_results(answered))
        print(f"for the VQA evaluation server: {path}")
        return
    first = launched().first  # of the processes that share a comparison
    floors = load_floors(settings.checkpoint) if first else {}
    metrics = summary(answered, {name: answer_split(floor, data, settings) for name, floor in floors.items()})
    if first:
        write_answers(settings.output, answered, metrics)
    if methods:
        compared = compare_explainers(model, data, answered, methods, settings)
        if first:
            write_json(settings.output / "metrics.json", {**metrics, "explainers": compared.metrics})
            say_written(settings.output, "samples.parquet", "curves.png", "report.html")


def write_answers(output: Path, answered: Answered, metrics: dict[str, Any]) -> None:
    write_json(output / "metrics.json", metrics)
    write_json(output / "predictions.json", server_results(answered))
    save_gallery(output / "examples.png", answered.questions, answered.answers)
    print(table(metrics))
    say_written(output, "metrics.json", "predictions.json", "examples.png")


def say_written(output: Path, *names: str) -> None:
    print(f"written: {', '.join(str(output / name) for name in names)}", flush=True)


def compare_explainers(
    model: CLIPMapper, data: DataConfig, answered: Answered, methods: tuple[str, ...], settings: EvaluationSettings
) -> Compared:
    """The explainers on questions that were answered, of different images as long as there are enough."""
    rows = sorted(answered.accuracy)
    if not rows or settings.samples < 1:
        raise ValueError(
            f"no questions to compare explainers on: --samples is {settings.samples}, {len(rows)} have answers"
        )
    images = column(answered.questions.records, "image_id").to_numpy()[rows]
    picked = [rows[i] for i in choose(images, settings.samples, seed=0)]
    root = data.root if data.hub is None else None
    plan = Plan(answered.questions, picked, methods, settings.protocol, root)
    on_gpu = settings.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return compare(model.to("cuda" if on_gpu else "cpu"), plan, settings.output)


def load(settings: EvaluationSettings) -> tuple[CLIPMapper, DataConfig]:
    """The model, and the data it is evaluated on: that of --config, else that of its training; options override both."""
    source = settings.checkpoint
    model, extra = trained_with(source)
    trained_on = extra["data"] if extra else {}
    if settings.model is not None and kind(settings.model) != kind(model.config):
        raise ValueError(
            f"{source} is {kind(model.config)}, the configuration is {kind(settings.model)}: "
            "leave --config out or name the one it was trained with"
        )
    parser = ArgumentParser()
    parser.add_class_arguments(DataConfig, "data")
    values = parser.parse_object({"data": {**trained_on, **settings.data}})
    return model, parser.instantiate(values).data


def kind(config: ModelConfig) -> str:
    return f"mapper {config.mapper} over {config.clip} for {config.task}"


def load_floors(checkpoint: str) -> dict[str, CLIPMapper]:
    """The blind models trained beside the checkpoint's run."""
    folder = Path(checkpoint).parent.parent / "floors"
    paths = {name: folder / name / "checkpoints" / "best.ckpt" for name in FLOORS}
    return {name: trained(str(path)) for name, path in paths.items() if path.is_file()}


def answer_split(model: CLIPMapper, data: DataConfig, settings: EvaluationSettings) -> Answered:
    """Answers every question of the split whose image can be read."""
    records, root = load_split(data, settings.split, AnswerVocabulary(tuple(model.answers)))
    questions = Questions(records, root, len(model.answers), model.clip)
    questions.encode_once(model.clip, data)
    task = VQATask(model, OptimizerConfig(), seed=0, extra={})
    answers = {
        row: model.answers[label]
        for rows, labels in predictions(task, questions, data, settings.accelerator)
        for row, label in zip(rows.tolist(), labels.tolist(), strict=True)
    }
    given = questions.records.select_columns(["answers"])
    accuracy = {
        row: vqa_accuracy(answer, annotators)
        for row, answer in answers.items()
        if (annotators := given[row]["answers"])
    }
    return Answered(questions, answers, accuracy)


def summary(answered: Answered, floors: Mapping[str, Answered]) -> dict[str, Any]:
    """Everything in metrics.json; accuracies in percent."""
    records = answered.questions.records
    return {
        "accuracy": by(answered, "answer_type", ANSWER_TYPES),
        "floors": {name: by(floor, "answer_type", ())["overall"] for name, floor in floors.items()},
        "accuracy_by_question_type": by(answered, "question_type"),
        "floors_by_question_type": {name: by(floor, "question_type") for name, floor in floors.items()},
        "questions": len(answered.accuracy),
        "skipped": answered.questions.skipped() | {"without answers": len(records) - len(answered.accuracy)},
    }


def by(answered: Answered, column: str, names: tuple[str, ...] | None = None) -> dict[str, float]:
    """Mean accuracy in percent, overall and for each value of a column (of `names` those that occur)."""
    values = answered.questions.records[column]
    groups: dict[str, list[float]] = defaultdict(list)
    for row, accuracy in answered.accuracy.items():
        groups["overall"].append(accuracy)
        groups[values[row]].append(accuracy)
    chosen = ["overall", *(sorted(groups.keys() - {"overall", ""}) if names is None else names)]
    return {name: round(100 * fmean(groups[name]), 2) for name in chosen if groups[name]}


def server_results(answered: Answered) -> list[dict[str, Any]]:
    """One entry a question, as the VQA evaluation server takes them."""
    return [
        {"question_id": question, "answer": answered.answers.get(row, UNANSWERED)}
        for row, question in enumerate(answered.questions.records["question_id"])
    ]


def table(metrics: dict[str, Any]) -> str:
    """The accuracies as text, with the floors beside them."""
    floors = metrics["floors_by_question_type"]
    lines = [" ".join(["accuracy in %".ljust(24), "model".rjust(8), *(name.rjust(14) for name in floors)])]
    types = metrics["accuracy_by_question_type"]
    for name, value in {**metrics["accuracy"], **types}.items():
        beside = (f"{floor[name]:14.1f}" if name in floor else " " * 14 for floor in floors.values())
        lines.append(" ".join([name.ljust(24), f"{value:8.1f}", *beside]))
    skipped = ", ".join(f"{count} {reason}" for reason, count in metrics["skipped"].items() if count)
    lines.append(f"{metrics['questions']} questions{f'; left out: {skipped}' if skipped else ''}")
    return "\n".join(lines)

"""Official VQA accuracy of a checkpoint, its floors beside it, and the file the VQA evaluation server takes."""

import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pytorch_lightning as pl
from jsonargparse import ArgumentParser
from pytorch_lightning.callbacks import TQDMProgressBar

from clipmapper.checkpoints import read_checkpoint
from clipmapper.cli import EvaluationSettings
from clipmapper.config import DataConfig, OptimizerConfig
from clipmapper.data.answers import AnswerVocabulary, vqa_accuracy
from clipmapper.data.official import BadData, MissingData
from clipmapper.data.records import load_split
from clipmapper.data.vqa import ANSWER_TYPES, Batches, Questions, loader
from clipmapper.features import FeatureCache
from clipmapper.files import replacing
from clipmapper.gallery import save_gallery
from clipmapper.model import CLIPMapper
from clipmapper.tasks import VQATask, described, model_from_checkpoint
from clipmapper.training import FLOORS

UNANSWERED = "yes"  # what the evaluation server gets for a question whose image cannot be read


@dataclass(frozen=True)
class Answered:
    """The model's answers to the questions of a split: row -> answer, and the official accuracy of each, 0..1."""

    questions: Questions
    answers: dict[int, str]
    accuracy: dict[int, float]


def run(settings: EvaluationSettings) -> None:
    """Writes metrics.json, predictions.json and examples.png, or the test server's file. Leaves with a message on bad input."""
    try:
        evaluate(settings)
    except (MissingData, BadData, ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def evaluate(settings: EvaluationSettings) -> None:
    model, data = load(settings)
    answered = answer_split(model, data, settings)
    settings.output.mkdir(parents=True, exist_ok=True)
    if settings.split.startswith("test"):
        path = settings.output / f"vqa_{settings.split}_results.json"
        write_json(path, server_results(answered))
        print(f"for the VQA evaluation server: {path}")
        return
    floors = {name: answer_split(floor, data, settings) for name, floor in load_floors(settings.checkpoint).items()}
    metrics = summary(answered, floors)
    write_json(settings.output / "metrics.json", metrics)
    write_json(settings.output / "predictions.json", server_results(answered))
    save_gallery(settings.output / "examples.png", answered.questions, answered.answers)
    print(table(metrics))
    print(
        f"written: {', '.join(str(settings.output / f) for f in ('metrics.json', 'predictions.json', 'examples.png'))}"
    )


def load(settings: EvaluationSettings) -> tuple[CLIPMapper, DataConfig]:
    """The model, and the data it is evaluated on: that of --config, else that of its training; options override both."""
    source = settings.checkpoint
    trained_on: dict[str, Any] = {}
    if Path(source).is_dir():
        model = CLIPMapper.from_pretrained(source)
    else:
        checkpoint = read_checkpoint(source)
        model = model_from_checkpoint(checkpoint, source)
        trained_on = described(checkpoint, source)["extra"]["data"]
    if settings.model is not None and (settings.model.clip, settings.model.mapper) != (
        model.config.clip,
        model.config.mapper,
    ):
        raise ValueError(
            f"{source} is mapper {model.config.mapper} over {model.config.clip}, the configuration is mapper "
            f"{settings.model.mapper} over {settings.model.clip}: leave --config out or name the one it was trained with"
        )
    parser = ArgumentParser()
    parser.add_class_arguments(DataConfig, "data")
    values = parser.parse_object({"data": {**trained_on, **settings.data}})
    return model, parser.instantiate(values).data


def load_floors(checkpoint: str) -> dict[str, CLIPMapper]:
    """The blind models trained beside the checkpoint's run."""
    folder = Path(checkpoint).parent.parent / "floors"
    paths = {name: folder / name / "checkpoints" / "best.ckpt" for name in FLOORS}
    return {
        name: model_from_checkpoint(read_checkpoint(path), str(path)) for name, path in paths.items() if path.is_file()
    }


def answer_split(model: CLIPMapper, data: DataConfig, settings: EvaluationSettings) -> Answered:
    """Answers every question of the split whose image can be read."""
    records, root = load_split(data, settings.split, AnswerVocabulary(tuple(model.answers)))
    questions = Questions(records, root, len(model.answers), model.clip)
    if data.cache is not None:
        cache = FeatureCache(data.cache, model.clip.identity())
        questions.fill_cache(cache, model.clip, data)
        questions.use_cache(cache)
    trainer = pl.Trainer(
        accelerator=settings.accelerator, devices=1, logger=False, callbacks=[TQDMProgressBar(refresh_rate=10)],
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    task = VQATask(model, OptimizerConfig(), seed=0, extra={})
    batches = loader(questions, Batches(len(questions), data.batch_size, None), data.workers)
    answers = {
        row: model.answers[label]
        for rows, labels in trainer.predict(task, batches) or []
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


def write_json(path: Path, content: Any) -> None:
    """Writes a file that is there whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1))

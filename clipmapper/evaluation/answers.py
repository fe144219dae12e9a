"""Official VQA accuracy of a model, its baselines beside it, and the file the VQA evaluation server takes."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from clipmapper.benchmark.run import run as benchmark
from clipmapper.benchmark.tasks.answers import AnswersTask, choose
from clipmapper.benchmark.tasks.why import save_why
from clipmapper.config import DataConfig, ModelSource
from clipmapper.data.answers import AnswerVocabulary, vqa_accuracy
from clipmapper.data.files import column
from clipmapper.data.records import load_split
from clipmapper.data.vqa import ANSWER_TYPES, Questions
from clipmapper.evaluation.command import EvaluationSettings
from clipmapper.evaluation.gallery import save_gallery
from clipmapper.evaluation.prediction import answers_of, mapper_of, of_shapes, shared
from clipmapper.explain.models.base import VQAModel
from clipmapper.explain.models.mapper import MapperModel
from clipmapper.files import write_json
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.processes import launched
from clipmapper.training.run import BASELINES

UNANSWERED = "yes"  # what the evaluation server gets for a question whose image cannot be read


@dataclass(frozen=True)
class Answered:
    """The answers to the questions of a split: row -> answer, and the official accuracy of each, 0 to 1."""

    questions: Questions
    answers: dict[int, str]
    accuracy: dict[int, float]


def evaluate_answers(
    model: VQAModel | CLIPMapper, source: ModelSource, data: DataConfig, settings: EvaluationSettings, output: Path
) -> dict[str, Any]:
    """Writes metrics.json, predictions.json and examples.png, or of a test split the file for the evaluation server.

    The processes that were launched together share the questions; the first one alone writes.
    """
    first, test = launched().first, settings.split.startswith("test")
    if test and settings.benchmark is not None:
        raise ValueError(f"--split {settings.split} has no answers: explainers are compared on val or train")
    device = next((model if isinstance(model, CLIPMapper) else model.module).parameters()).device
    questions = load_questions(model, data, settings.split)
    answered = answer_split(model, questions, data, output / "answers")
    if test:
        path = output / f"vqa_{settings.split}_results.json"
        if first:
            write_json(path, server_results(answered))
            print(f"for the VQA evaluation server: {path}")
        return {}
    blind = {}
    for name, path in baseline_checkpoints(source.name).items():
        baseline = CLIPMapper.from_pretrained(path).to(device)
        blind[name] = answer_split(
            baseline, load_questions(baseline, data, settings.split), data, output / f"answers-{name}"
        )
    metrics = summary(answered, blind)
    if first:
        write_answers(output, answered, metrics)
    if settings.benchmark is not None:
        rows = questions.annotated()
        images = column(questions.records, "image_id").to_numpy()[rows]
        picked = [rows[i] for i in choose(images, settings.benchmark.samples, settings.benchmark.seed)]
        root = data.root if data.hub is None else None
        if isinstance(model, CLIPMapper):
            model = MapperModel(model)  # which says why it cannot be explained
        task = AnswersTask(model, questions, picked, settings.benchmark, root)
        outcome = benchmark(task, settings.benchmark, output)
        metrics |= {"explainers": outcome.metrics}
        if first:
            write_json(output / "metrics.json", metrics)
            pictures = ["curves.png"] if settings.benchmark.removal else []
            why = output / "why.png"
            if not pictures and task.truth is not None and save_why(task, outcome.samples, outcome.metrics, why):
                pictures = [why.name]
            say_written(output, "values.parquet", "samples.parquet", *pictures, "report.html")
    return metrics


def load_questions(model: VQAModel | CLIPMapper, data: DataConfig, split: str) -> Questions:
    """Returns a split with the answers scored as the model's own."""
    records, root = load_split(data, split, AnswerVocabulary(tuple(model.answers)), of_shapes(model))
    mapper = mapper_of(model)
    return Questions(records, root, len(model.answers), None if mapper is None else mapper.clip)


def answer_split(model: VQAModel | CLIPMapper, questions: Questions, data: DataConfig, folder: Path) -> Answered:
    """Answers every question of the split whose image can be read; each process its share, told to the first in `folder`."""
    answers = shared(folder, lambda rows: answers_of(model, questions, data, rows), range(len(questions.records)))
    annotated = questions.records.select_columns(["answers"])
    accuracy = {
        row: vqa_accuracy(answer, annotators)
        for row, answer in answers.items()
        if (annotators := annotated[row]["answers"])
    }
    return Answered(questions, answers, accuracy)


def baseline_checkpoints(checkpoint: str) -> dict[str, Path]:
    """Returns the blind models that were trained beside the checkpoint's run, by name."""
    folder = Path(checkpoint).parent.parent / "floors"
    paths = {name: folder / name / "checkpoints" / "best.ckpt" for name in BASELINES}
    return {name: path for name, path in paths.items() if path.is_file()}


def write_answers(output: Path, answered: Answered, metrics: dict[str, Any]) -> None:
    write_json(output / "metrics.json", metrics)
    write_json(output / "predictions.json", server_results(answered))
    save_gallery(output / "examples.png", answered.questions, answered.answers)
    print(table(metrics))
    say_written(output, "metrics.json", "predictions.json", "examples.png")


def say_written(output: Path, *names: str) -> None:
    print(f"written: {', '.join(str(output / name) for name in names)}", flush=True)


def summary(answered: Answered, blind: Mapping[str, Answered]) -> dict[str, Any]:
    """Returns all of metrics.json; accuracies in percent. Its "floors" are the baselines, by the name that files have had."""
    records = answered.questions.records
    return {
        "accuracy": by(answered, "answer_type", ANSWER_TYPES),
        "floors": {name: by(baseline, "answer_type", ())["overall"] for name, baseline in blind.items()},
        "accuracy_by_question_type": by(answered, "question_type"),
        "floors_by_question_type": {name: by(baseline, "question_type") for name, baseline in blind.items()},
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


def table(metrics: Mapping[str, Any]) -> str:
    """The accuracies as text, with the baselines beside them."""
    baselines = metrics["floors_by_question_type"]
    lines = [" ".join(["accuracy in %".ljust(24), "model".rjust(8), *(name.rjust(14) for name in baselines)])]
    types = metrics["accuracy_by_question_type"]
    for name, value in {**metrics["accuracy"], **types}.items():
        beside = (f"{other[name]:14.1f}" if name in other else " " * 14 for other in baselines.values())
        lines.append(" ".join([name.ljust(24), f"{value:8.1f}", *beside]))
    skipped = ", ".join(f"{count} {reason}" for reason, count in metrics["skipped"].items() if count)
    lines.append(f"{metrics['questions']} questions{f'; left out: {skipped}' if skipped else ''}")
    return "\n".join(lines)

"""The command line of `evaluate.py`: only what acts, and a word on where the rest belongs."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NoReturn

import yaml

from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.cli import Parser, config_path, named, renamed
from clipmapper.config import (
    SHIPPED,
    SHIPPED_STOCK,
    DataConfig,
    DecodingConfig,
    ModelConfig,
    ModelSource,
    check_loggers,
)
from clipmapper.config.checks import require, restored
from clipmapper.errors import unknown

DESCRIPTION = """Evaluates models on a data set: answers or captions, and with --benchmark.methods the explainers of them. The
benchmarks of the papers on models of images or text alone: evaluate.py imagenet, segmentation, detr or rationales, each with
its own --help."""
ALIASES = {  # other names of options; they stay
    "--checkpoint": "--model",
    "--explainers": "--benchmark.methods",
    "--protocol": "--benchmark.protocol",
    "--samples": "--benchmark.samples",
}
ELSEWHERE = {  # options of training that have another name here
    "--trainer.accelerator": "--accelerator",
    "--run.seed": "--benchmark.seed",
    "--run.dir": "--output",
    "--run.loggers": "--loggers",
    "--explain.methods": "--benchmark.methods",
    "--explain.protocol": "--benchmark.protocol",
    "--explain.samples": "--benchmark.samples",
    "--explain.batch_size": "--benchmark.batch_size",
    "--explain.pictures": "--benchmark.gallery",
    "--explain.reference_models": "--model, once for each",
}
TRAINING = ("--optimizer.", "--trainer.", "--run.", "--explain.", "--model.")


@dataclass(frozen=True)
class EvaluationSettings:
    """The settings of an evaluation.

    Attributes:
        models: what is evaluated, one after the other.
        output: folder for the results; with several models each has a folder in it.
        split: of the data.
        accelerator: where to compute.
        model: that of --config, which a checkpoint must fit; None without.
        data: what the command line and --config say of the data.
        decoding: how captions are written.
        judge: another CLIP that scores captions, None for the model's own.
        benchmark: how explainers are compared; None for not at all.
        loggers: where the results are logged beside the files.
        given: the options on the command line, by name.
    """

    models: list[ModelSource]
    output: Path
    split: str
    accelerator: str
    model: ModelConfig | None
    data: dict[str, Any]
    decoding: DecodingConfig
    judge: str | None
    benchmark: BenchmarkConfig | None
    loggers: list[str]
    given: frozenset[str]


def evaluation_parser(program: str = "python evaluate.py") -> Parser:
    """Returns the parser of evaluation."""
    parser = Parser(prog=program, description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--config", type=str, help="name below configs/, or a YAML file, whose data is taken")
    what = "what to evaluate: a checkpoint, a shipped name (shapes-b-vqa), a saved folder, a hub id, or open_clip's MODEL:WEIGHTS"
    more = "; a mapping {name: DIR, regions: FILE, answers: FILE} says more. May be given several times"
    parser.add_argument("--model", type=list[str], action="append", help=what + more)
    parser.add_argument("--output", type=Path, help="folder for the results")
    parser.add_argument("--split", type=Literal["val", "train", "test", "test-dev"], default="val")
    parser.add_argument("--accelerator", type=Literal["auto", "cpu", "gpu"], default="auto", help="where to compute")
    parser.add_argument(
        "--loggers",
        type=list[str],
        default=[],
        help="where the results are logged beside the files: wandb, csv, tensorboard; '[wandb]'",
    )
    parser.add_argument("--judge", type=str, help="another CLIP that scores captions: open_clip's MODEL:WEIGHTS")
    parser.add_class_arguments(DataConfig, "data")
    parser.add_class_arguments(DecodingConfig, "decoding")
    parser.add_class_arguments(BenchmarkConfig, "benchmark")
    return parser


def parse_evaluation(
    arguments: Sequence[str], configs: Path, program: str = "python evaluate.py"
) -> EvaluationSettings:
    """Returns what the command line asks for; leaves with a message where it asks for what does not act.

    Args:
        arguments: the words after the program's name.
        configs: the folder of named configurations.
        program: what was started, as errors say it.
    """
    parser = evaluation_parser(program)
    words, models = with_full_names(arguments, parser)
    configuration = _configuration(parser, words, configs)
    parsed = parser.parse_args(words)
    for name, there in (("--model", models), ("--output", parsed.output)):
        if not there:
            parser.error(f"{name} is missing")
    given = frozenset(word.partition("=")[0] for word in words if word.startswith("--"))
    settings = sorted(name for name in given if name.startswith("--benchmark."))
    if settings and "--benchmark.methods" not in given:
        parser.error(
            f"{settings[0]} acts only where explainers are compared: give --benchmark.methods too (all, or names)"
        )
    explicit = yaml.safe_load(parser.dump(parser.parse_args(words, defaults=False), skip_unset=False))
    try:
        sources = [ModelSource.parse(text) for text in models]
        for source in sources:
            _refuse_nameless(source.name)
        return EvaluationSettings(
            models=sources,
            output=parsed.output,
            split=parsed.split,
            accelerator=parsed.accelerator,
            model=restored(ModelConfig, configuration["model"], parser.files[0])
            if configuration.get("model")
            else None,
            data=merged(configuration.get("data") or {}, explicit.get("data", {})),
            decoding=DecodingConfig(**parsed.decoding.as_dict()),
            judge=parsed.judge,
            loggers=loggers_of(parsed.loggers, given, parsed.split),
            benchmark=BenchmarkConfig(**parsed.benchmark.as_dict()) if settings else None,
            given=given,
        )
    except (ValueError, TypeError) as error:
        parser.error(str(error))


def loggers_of(names: list[str], given: Collection[str], split: str = "val") -> list[str]:
    """Returns the loggers; raises ValueError for an unknown one, one given twice, and where there is nothing to log.

    Args:
        names: of --loggers.
        given: the options on the command line, by name.
        split: of the data.
    """
    check_loggers(names)
    require(len({*names}) == len(names), "loggers", names, "each logger once")
    if "--loggers" in given and split.startswith("test"):
        raise ValueError(
            f"--loggers does nothing here: --split {split} has no answers, so nothing is scored; leave it out"
        )
    if "--loggers" in given and not names:
        raise ValueError("--loggers names none: name one, such as '[wandb]', or leave it out")
    return names


def refuse(settings: EvaluationSettings, prefixes: tuple[str, ...], why: str) -> None:
    """Raises ValueError for options that do nothing with this model."""
    for name in sorted(settings.given):
        if name.startswith(prefixes):
            raise ValueError(f"{name} does nothing here: {why}; leave it out")


def _refuse_nameless(name: str) -> None:
    """Raises ValueError for what can be no model, before anything is imported to load it."""
    shipped = (*SHIPPED, *SHIPPED_STOCK)
    if not (name in shipped or set("/:\\") & {*name} or name.endswith(".ckpt") or Path(name).exists()):
        raise unknown("model (no checkpoint, folder, hub id owner/name or open_clip's MODEL:WEIGHTS)", name, shipped)


def merged(values: Any, over: Any) -> Any:
    """Returns nested mappings with those of `over` in their places."""
    if not isinstance(values, dict) or not isinstance(over, dict):
        return over
    return {**values, **{name: merged(values.get(name), value) for name, value in over.items()}}


def with_full_names(
    arguments: Sequence[str], parser: Parser, aliases: dict[str, str] = ALIASES
) -> tuple[list[str], list[str]]:
    """Returns the words without the models, and the models; leaves with a message on options that act in training alone."""
    words: list[str] = []
    models: list[str] = []
    expects_model = False
    for word in renamed(arguments, aliases):
        if expects_model:
            models.append(word)
            expects_model = False
            continue
        name, equals, value = word.partition("=")
        _refuse_training(parser, name)
        if name == "--model" and equals:
            models.append(value)
        elif name == "--model":
            expects_model = True
        else:
            words.append(name + equals + value)
    return words, models


def _refuse_training(parser: Parser, name: str) -> None:
    if name in ELSEWHERE:
        _leave(parser, f"{name} acts in training alone; here it is {ELSEWHERE[name]}")
    if name.startswith(TRAINING):
        _leave(parser, f"{name} acts in training alone; leave it out")


def _leave(parser: Parser, message: str) -> NoReturn:
    parser.error(message)


def _configuration(parser: Parser, words: Sequence[str], configs: Path) -> dict[str, Any]:
    """The sections of the file of --config."""
    name = next((w.removeprefix("--config=") for w in words if w.startswith("--config=")), None)
    if name is None and "--config" in words[:-1]:
        name = words[list(words).index("--config") + 1]
    if name is None:
        return {}
    try:
        path = config_path(name, configs)
        parser.files = [str(path)]
        sections = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        for section in ("model", "data"):
            if not isinstance(sections.get(section), dict | NoneType):
                raise ValueError(
                    f"{path}: {section} is a {type(sections[section]).__name__}; it must be a mapping of settings"
                )
        return sections
    except ValueError as error:
        parser.error(f"{error}. Configurations: {', '.join(named(configs))}")

"""The command line of training: a named YAML file, every value of which can be overridden."""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser

from clipmapper.config import DataConfig, ExplainConfig, ModelConfig, OptimizerConfig, RunConfig, TrainerConfig
from clipmapper.config.trainer import RESERVED
from clipmapper.errors import nearest, unknown

# What is trained -> options that act there alone.
ACTS_IN = {
    ("model.kind mapper",): ("model.mapper", "model.task", "model.sees", "data.hub", "run.compile", "explain.every"),
    ("model.kind mapper", "model.kind llava"): ("data.cache", "data.encode_batch"),
    ("model.task vqa",): ("model.read", "data.vocabulary", "data.min_count", "run.floors"),
    ("model.task caption",): ("model.tied", "model.tokens", "data.karpathy"),
    ("model.task caption", "model.kind llava", "model.kind blip"): ("optimizer.label_smoothing", "run.captioned"),
}

# What jsonargparse says about a key it does not know, in a file's group, elsewhere in a file, on the command line.
UNKNOWN_KEY = re.compile(
    r"Group '(?P<group>[\w.]+)' does not accept option '(?P<option>[\w.]+)'"
    r"|Option '(?P<key>[\w.]+)' is not accepted"
    r"|unrecognized arguments: --(?P<argument>[\w.]+)"
)


class Parser(ArgumentParser):
    """jsonargparse's parser, whose errors about an unknown key name the nearest known one, or why there is none.

    `reserved` has options that exist elsewhere but are no settings here, and the reason of each.
    """

    reserved: Mapping[str, str] = {}
    files: Sequence[str] = ()  # of settings, which errors name

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # of a part of the settings: the parser of the whole says where it is
            super().error(message, ex)
        for match in UNKNOWN_KEY.finditer(message):
            wanted = ".".join(part for part in match.groups() if part)
            if reason := self.reserved.get(wanted):
                message += f"\n{wanted} is set by the run itself: {reason}; leave it out"
            elif near := nearest(wanted, self.known_keys()):
                message += f"\nunknown: {wanted}; did you mean {near}?"
        if self.files:
            message += f"\nthe settings are those of {' and '.join(self.files)} and of the command line"
        print(f"error: {message}\nfor all keys and their meaning: {self.prog} --help", file=sys.stderr)
        sys.exit(2)

    def known_keys(self) -> list[str]:
        return [action.dest for action in self._actions]


def training_parser(configs: Path, program: str = "python train.py") -> Parser:
    """The parser of training; `configs` is the folder of named configurations."""
    description = f"Trains a mapper. Configurations: {', '.join(named(configs))}."
    parser = Parser(prog=program, description=description, allow_abbrev=False)
    parser.add_argument("--config", action=ActionConfigFile, help="name below configs/, or a YAML file")
    for name, kind in (
        ("model", ModelConfig),
        ("data", DataConfig),
        ("optimizer", OptimizerConfig),
        ("run", RunConfig),
        ("explain", ExplainConfig),
        ("trainer", TrainerConfig),
    ):
        parser.add_class_arguments(kind, name)
    parser.reserved = {f"trainer.{name}": reason for name, reason in RESERVED.items()}
    return parser


@dataclass(frozen=True)
class Settings:
    """A run's settings; `plain` has all of them as values that a checkpoint or a logger can hold."""

    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    run: RunConfig
    explain: ExplainConfig
    trainer: TrainerConfig
    plain: dict[str, Any]


def parse_training(arguments: Sequence[str], configs: Path, program: str = "python train.py") -> Settings:
    """Returns what the command line asks for; leaves with a message if it asks for something that is not."""
    parser = training_parser(configs, program)
    try:
        arguments = with_config_paths(arguments, configs)
    except ValueError as error:
        parser.error(str(error))
    words = pairwise(["", *arguments])
    parser.files = [w.removeprefix("--config=") for left, w in words if left == "--config" or w.startswith("--config=")]
    if not any(argument.startswith("--config") for argument in arguments) and not {"-h", "--help"} & {*arguments}:
        parser.error(f"which run? give --config with one of: {', '.join(named(configs))}")
    parsed = parser.parse_args(arguments)
    values = yaml.safe_load(parser.dump(parsed))
    try:
        built = parser.instantiate(parsed)
    except (ValueError, TypeError) as error:
        parser.error(str(error))
    trained = {f"model.kind {built.model.kind}"}
    if built.model.kind == "mapper":
        trained.add(f"model.task {built.model.task}")
    for where, names in ACTS_IN.items():
        idle = [name for name in names if trained.isdisjoint(where) and parsed[name] != parser.get_default(name)]
        if idle:
            parser.error(f"{idle[0]} acts with {' or '.join(where)} alone; leave it out")
    return Settings(built.model, built.data, built.optimizer, built.run, built.explain, built.trainer, values)


def renamed(words: Sequence[str], aliases: Mapping[str, str]) -> list[str]:
    """Returns the words of a command line with options by their full names."""
    parts = [word.partition("=") for word in words]
    return [aliases.get(name, name) + equals + value for name, equals, value in parts]


def with_config_paths(arguments: Sequence[str], configs: Path) -> list[str]:
    """The arguments with each `--config NAME` turned into the path of a file. Raises ValueError for an unknown one."""
    out: list[str] = []
    for i, argument in enumerate(arguments):
        if i and arguments[i - 1] == "--config":
            out.append(str(config_path(argument, configs)))
        elif argument.startswith("--config="):
            out.append(f"--config={config_path(argument.removeprefix('--config='), configs)}")
        else:
            out.append(argument)
    return out


def config_path(name: str, configs: Path) -> Path:
    """The file of a named configuration, or `name` itself if it is a file. Raises ValueError if it is no YAML of settings."""
    for path in (configs / f"{name}.yaml", Path(name)):
        if path.is_file():
            try:
                content = yaml.safe_load(path.read_text(encoding="utf-8"))
            except (yaml.YAMLError, ValueError, RecursionError) as error:  # jsonargparse would not name the file
                raise ValueError(f"{path} is not YAML in UTF-8: {error}") from error
            except OSError as error:
                raise ValueError(f"{path} cannot be read: {error}") from error
            if not isinstance(content, dict | NoneType):
                raise ValueError(f"{path} holds a {type(content).__name__}; a configuration is a mapping of settings")
            return path
    raise unknown("configuration", name, named(configs))


def named(configs: Path) -> list[str]:
    return sorted(path.stem for path in configs.glob("*.yaml"))

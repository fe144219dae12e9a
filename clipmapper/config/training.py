"""Settings of a training run: its optimizer, its files and logs, and what it explains."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clipmapper.config.checks import require
from clipmapper.config.model import ModelSource
from clipmapper.errors import unknown

LOGGERS = ("wandb", "csv", "tensorboard")
ProtocolName = Literal["recommended", "wra", "genatt", "transatt"]


def check_loggers(names: Iterable[str]) -> None:
    """Raises ValueError for an unknown logger."""
    for name in names:
        if name not in LOGGERS:
            raise unknown("logger", name, LOGGERS)


@dataclass
class OptimizerConfig:
    """Linear warm-up, a constant rate, and cosine decay to 0 from step `decay_from` (WRA §4.1).

    The paper's learning rate and batch size are not known: those of the configs are our choice.

    Attributes:
        name: adam (the paper's), or muon, which orthogonalises the updates of the mapper's matrices (Jordan et al. 2024)
            and leaves the other weights to Adam with Nesterov momentum: fewer steps on Shapes.
        label_smoothing: captions: share of the probability that the loss spreads over all tokens.
    """

    name: Literal["adam", "muon"] = "adam"
    lr: float = 3e-4
    warmup_steps: int = 1000
    decay_from: int = 10_000
    betas: tuple[float, float] = (0.9, 0.98)
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        require(0 <= self.label_smoothing < 1, "optimizer.label_smoothing", self.label_smoothing, "in [0, 1)")
        require(self.lr > 0, "optimizer.lr", self.lr, "above 0")
        require(self.warmup_steps >= 0, "optimizer.warmup_steps", self.warmup_steps, "0 or more")
        require(
            self.decay_from >= self.warmup_steps,
            "optimizer.decay_from",
            self.decay_from,
            f"at least warmup_steps ({self.warmup_steps})",
        )


@dataclass
class RunConfig:
    """A run's folder, logs, start and end.

    Attributes:
        dir: folder of the run: checkpoints, logs, and in `floors` the baselines.
        name: its name in the logs; null takes the folder's.
        loggers: wandb, csv, tensorboard.
        seed: of weights, order and dropout.
        resume: checkpoint to continue from, "last" for the run's own newest, or "auto" for that if there is one.
        checkpoint_every: steps between checkpoints of `last.ckpt` within an epoch.
        patience: validations without a better accuracy (captions: CIDEr) until the run stops; null never stops early.
        min_gain: by how much it must be better for `patience` to count it.
        floors: also train the baselines, a question-only and an image-only model, until a point is no longer gained.
        examples: held-out questions or captions logged with their image after each validation.
        captioned: held-out images captioned in each validation, for BLEU-4 and CIDEr; llava and blip are asked about them too.
        compile: torch.compile mapper and head for training steps; needs a C++ compiler (on GPUs a C compiler).
    """

    dir: Path = Path("runs/vqa")
    name: str | None = None
    loggers: list[str] = field(default_factory=lambda: ["wandb", "csv"])
    seed: int = 0
    resume: str | None = None
    checkpoint_every: int = 1000
    patience: int | None = None
    min_gain: float = 0.0
    floors: bool = False
    examples: int = 8
    captioned: int = 500
    compile: bool = False

    def __post_init__(self) -> None:
        require(self.examples >= 0, "run.examples", self.examples, "0 or more")
        require(self.patience is None or self.patience > 0, "run.patience", self.patience, "above 0, or null")
        require(self.min_gain >= 0, "run.min_gain", self.min_gain, "0 or more")
        require(self.checkpoint_every > 0, "run.checkpoint_every", self.checkpoint_every, "above 0")
        require(self.captioned > 0, "run.captioned", self.captioned, "above 0")
        check_loggers(self.loggers)
        require(len({*self.loggers}) == len(self.loggers), "run.loggers", self.loggers, "each logger once")


@dataclass
class ExplainConfig:
    """Explanations in validation; they never change training.

    Attributes:
        every: validations from one explanation to the next; 0 explains never.
        methods: explainers; ["all"] is slow.
        protocol: which tokens are removed, and how (those of the papers, or the recommended one).
        samples: held-out questions, or images with the model's captions, that are explained, always the same.
        batch_size: questions or captions a recorded pass; a caption counts as many times as it has tokens.
        seconds: after which no new batch is begun, in each process; null has no limit.
        pictures: questions or captions whose explanations are logged as pictures.
        reference_models: other models, explained once on the same samples; a string names a CLIPMapper.
    """

    every: int = 0
    methods: list[str] = field(default_factory=lambda: ["wra", "genatt", "rollout", "raw_attention"])
    protocol: ProtocolName = "recommended"
    samples: int = 64
    batch_size: int = 16
    seconds: float | None = 60.0
    pictures: int = 4
    reference_models: list[str | ModelSource] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("every", "pictures"):
            require(getattr(self, name) >= 0, f"explain.{name}", getattr(self, name), "0 or more")
        for name in ("samples", "batch_size"):
            require(getattr(self, name) > 0, f"explain.{name}", getattr(self, name), "above 0")
        require(self.seconds is None or self.seconds >= 0, "explain.seconds", self.seconds, "0 or more, or null")
        labels = [reference.label for reference in self.references]
        require(len({*labels}) == len(labels), "explain.reference_models", labels, "different models")

    @property
    def references(self) -> list[ModelSource]:
        return [ModelSource(model) if isinstance(model, str) else model for model in self.reference_models]

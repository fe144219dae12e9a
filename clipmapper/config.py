"""Everything a run can be told, typed and checked; the command line and the YAML files set these fields."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

import yaml

from clipmapper.data.shapes.write import ShapesConfig
from clipmapper.errors import unknown

MapperName = Literal["a", "b"]
Task = Literal["vqa", "caption"]
Sees = Literal["both", "question", "image"]
ProtocolName = Literal["recommended", "wra", "genatt", "transatt"]


@dataclass
class ModelConfig:
    """The model, up to its answers or the tokens of its captions.

    Attributes:
        task: vqa (answers questions) or caption (writes captions, word by word).
        clip: open_clip's model name.
        pretrained: open_clip's tag, a file of weights, or null for random weights.
        mapper: a (single stream) or b (dual stream).
        layers: null for the fair number: 8 for a, 3 for b.
        width: null for CLIP's joint width; the projections then start as CLIP's own.
        heads: attention heads of the mapper; must divide the width.
        dropout: share of activations dropped in attention, feed-forward and head.
        read: token the head of vqa reads: the image's class token or the question's end token.
        sees: "question" and "image" blind the model to the other modality (floors).
        tied: captions: the output is CLIP's frozen token embedding after a learned projection, not a learned matrix.
        tokens: captions: BPE tokens that can be written, all of CLIP's or those seen in the training captions.
    """

    clip: str = "ViT-B-32"
    pretrained: str | None = "openai"
    mapper: MapperName = "b"
    layers: int | None = None
    width: int | None = None
    heads: int = 8
    dropout: float = 0.1
    read: Literal["image", "text"] = "image"
    sees: Sees = "both"
    task: Task = "vqa"
    tied: bool = True
    tokens: Literal["all", "seen"] = "all"

    def __post_init__(self) -> None:
        _require(self.layers is None or self.layers > 0, "model.layers", self.layers, "above 0, or null")
        _require(self.width is None or self.width > 0, "model.width", self.width, "above 0, or null")
        _require(self.heads > 0, "model.heads", self.heads, "above 0")
        _require(0 <= self.dropout < 1, "model.dropout", self.dropout, "in [0, 1)")
        blind = self.task == "caption" and self.sees == "image"
        _require(not blind, "model.sees", self.sees, '"both" or "question" where captions are written')


@dataclass
class HubConfig:
    """A Hugging Face data set: hub id or local folder, its splits, and {record column: their column}."""

    name: str
    train: str = "train"
    val: str = "validation"
    columns: dict[str, str] = field(default_factory=dict)

    def split(self, name: str) -> str:
        """The data set's own name for "train", "val" or another split."""
        return {"train": self.train, "val": self.val}.get(name, name)


@dataclass
class DataConfig:
    """Where questions or captions and their images come from and how they are read.

    Attributes:
        root: folder with the official VQAv2 and COCO files.
        hub: a Hugging Face data set instead of `root`.
        shapes: if given, `root` is made as Shapes when it does not exist.
        karpathy: of captions, `dataset_coco.json` or a folder of name lists `coco_{train,val,test}.txt[.gz]`; null takes
            the official files as the splits.
        vocabulary: answer list (`trainval_label2ans.json`); null builds it from the training answers.
        min_count: times an answer must occur to be in a built vocabulary.
        held_out: val questions kept for validation; the rest is trained on. A val split of no more is kept whole.
        batch_size: questions or captions a step and process.
        workers: loader processes; 0 loads in the main process.
        cache: folder for CLIP's image tokens, computed once; null encodes images anew in every step.
        encode_batch: images encoded at once while the cache is built.
    """

    root: Path = Path("data/vqav2")
    hub: HubConfig | None = None
    shapes: ShapesConfig | None = None
    karpathy: Path | None = None
    vocabulary: Path | None = None
    min_count: int = 9
    held_out: int = 10_000
    batch_size: int = 256
    workers: int = 4
    cache: Path | None = Path("data/features")
    encode_batch: int = 128

    def __post_init__(self) -> None:
        for name in ("min_count", "held_out", "batch_size", "encode_batch"):
            _require(getattr(self, name) > 0, f"data.{name}", getattr(self, name), "above 0")
        _require(self.workers >= 0, "data.workers", self.workers, "0 or more")


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
        _require(0 <= self.label_smoothing < 1, "optimizer.label_smoothing", self.label_smoothing, "in [0, 1)")
        _require(self.lr > 0, "optimizer.lr", self.lr, "above 0")
        _require(self.warmup_steps >= 0, "optimizer.warmup_steps", self.warmup_steps, "0 or more")
        _require(
            self.decay_from >= self.warmup_steps,
            "optimizer.decay_from",
            self.decay_from,
            f"at least warmup_steps ({self.warmup_steps})",
        )


@dataclass
class DecodingConfig:
    """How captions are written.

    Attributes:
        method: greedy (the paper's), beam, or nucleus.
        beams: captions kept a step by beam search.
        top_p: probability of the tokens that nucleus sampling draws from.
        temperature: of nucleus sampling.
        length: most tokens of a caption.
        seed: of nucleus sampling.
    """

    method: Literal["greedy", "beam", "nucleus"] = "greedy"
    beams: int = 5
    top_p: float = 0.9
    temperature: float = 1.0
    length: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.beams > 0, "decoding.beams", self.beams, "above 0")
        _require(0 < self.top_p <= 1, "decoding.top_p", self.top_p, "in (0, 1]")
        _require(self.temperature > 0, "decoding.temperature", self.temperature, "above 0")
        _require(self.length > 0, "decoding.length", self.length, "above 0")


@dataclass
class RunConfig:
    """Where a run writes, what it logs, and how it starts and stops.

    Attributes:
        dir: folder of the run: checkpoints, logs, floors.
        name: its name in the logs; null takes the folder's.
        loggers: wandb, csv, tensorboard.
        seed: of weights, order and dropout.
        resume: checkpoint to continue from, "last" for the run's own newest, or "auto" for that if there is one.
        checkpoint_every: steps between checkpoints of `last.ckpt` within an epoch.
        patience: validations without a better accuracy (captions: CIDEr) until the run stops; null never stops early.
        min_gain: by how much it must be better for `patience` to count it.
        floors: also train a question-only and an image-only model in the same way, until a point is no longer gained.
        examples: held-out questions or captions logged with their image after each validation.
        captioned: held-out images captioned in each validation, for BLEU-4 and CIDEr.
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
        _require(self.checkpoint_every > 0, "run.checkpoint_every", self.checkpoint_every, "above 0")
        _require(self.captioned > 0, "run.captioned", self.captioned, "above 0")
        for name in self.loggers:
            if name not in ("wandb", "csv", "tensorboard"):
                raise unknown("logger", name, ("wandb", "csv", "tensorboard"))


@dataclass
class ModelSource:
    """A model, wherever it is kept.

    Attributes:
        name: a CLIPMapper: a checkpoint, saved folder, shipped name or hub id; LXMERT, VisualBERT: a saved folder or hub id;
            CLIP without training: open_clip's MODEL:WEIGHTS.
        kind: clipmapper, lxmert, visualbert, or clip (zero-shot); null finds it from what is there.
        regions: lxmert, visualbert: table of the images' regions (TSV), or a folder with an npz file for each image.
        tokenizer: lxmert, visualbert: where its tokenizer is, if not beside the model.
        answers: the answers in the order of the model's labels (label2ans JSON list), if its config.json does not name
            them; of clip those it chooses from, null for the commonest of the data.
        candidates: clip: how many answers it chooses from.
    """

    name: str
    kind: str | None = None
    regions: Path | None = None
    tokenizer: str | None = None
    answers: Path | None = None
    candidates: int = 100

    def __post_init__(self) -> None:
        _require(self.candidates > 0, f"{self.name}: candidates", self.candidates, "above 0")
        self.regions, self.answers = (None if path is None else Path(path) for path in (self.regions, self.answers))

    @classmethod
    def parse(cls, text: str) -> "ModelSource":
        """Reads a name, or a YAML mapping such as {name: DIR, regions: regions.tsv}.

        Raises:
            ValueError: a mapping without a name, or with another option.
        """
        if not text.lstrip().startswith("{"):
            return cls(text)
        try:
            values = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"--model {text}: no YAML mapping ({error})") from error
        for name in values:
            if name not in (known := [f.name for f in fields(cls)]):
                raise ValueError(f"--model {text}: {unknown('option', name, known)}")
        if "name" not in values:
            raise ValueError(f"--model {text} has no name; give a folder, a hub id, a shipped name or MODEL:WEIGHTS")
        return cls(**values)

    @property
    def label(self) -> str:
        """Its name in logs and tables."""
        return self.name if self.kind in (None, "clipmapper") else f"{self.kind}:{self.name}"

    def options(self) -> list[str]:
        """Returns the options that are not left as they are."""
        own = {"name", "kind"}
        return [f.name for f in fields(self) if f.name not in own and getattr(self, f.name) != f.default]


ReferenceConfig = ModelSource  # its name as a reference model in training


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
            _require(getattr(self, name) >= 0, f"explain.{name}", getattr(self, name), "0 or more")
        for name in ("samples", "batch_size"):
            _require(getattr(self, name) > 0, f"explain.{name}", getattr(self, name), "above 0")
        labels = [reference.label for reference in self.references]
        _require(len({*labels}) == len(labels), "explain.reference_models", labels, "different models")

    @property
    def references(self) -> list[ModelSource]:
        return [ModelSource(model) if isinstance(model, str) else model for model in self.reference_models]


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value!r} and must be {wanted}")

"""Settings of data: where texts and images come from, and how Shapes is drawn."""

from dataclasses import dataclass, field
from pathlib import Path

from clipmapper.config.checks import require


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


MOST_SCENES = 250_000  # of a split of Shapes: splits share no image id


@dataclass(frozen=True)
class ShapesConfig:
    """Scenes of each split and questions a scene. The same values give the same files, byte for byte."""

    train: int = 8000
    val: int = 1000
    test: int = 200
    questions: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.train, self.val, self.questions) < 1 or min(self.test, self.seed) < 0:
            raise ValueError(f"Shapes needs at least one train scene, val scene and question, got {self}")
        if max(self.train, self.val, self.test) > MOST_SCENES:
            raise ValueError(f"a split of Shapes holds at most {MOST_SCENES} scenes, got {self}")


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
        batch_size: questions or captions a step and process; of llava and blip images, each with all of its texts.
        workers: loader processes; 0 loads in the main process.
        cache: folder for CLIP's image tokens, computed once; null encodes images anew in every step, as blip does, whose
            tower is trained along.
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
            require(getattr(self, name) > 0, f"data.{name}", getattr(self, name), "above 0")
        both = self.hub is not None and (self.root != DataConfig.root or self.shapes is not None)
        require(
            not both,
            "data.hub",
            getattr(self.hub, "name", None),
            "null where data.root or data.shapes is given: give one of them",
        )
        require(self.workers >= 0, "data.workers", self.workers, "0 or more")

"""What each benchmark can be told; the command line sets these fields."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clipmapper.data.files import MissingData


@dataclass(frozen=True, kw_only=True)
class Common:
    """What all benchmarks share.

    Attributes:
        model: a folder, a hub id, or (models of images alone) timm:NAME; weights must be safetensors.
        output: folder for metrics.json, samples.parquet and samples.png.
        methods: papers (those that the papers compare), all, or names with commas between.
        samples: how many, spread evenly over the data; null for all.
        batch_size: samples explained at once.
        device: where to compute; by default a GPU if there is one.
        dtype: float64 makes LRP exact (docs/lrp.md).
        pictures: samples that are drawn.
    """

    model: str
    output: Path
    methods: str = "papers"
    samples: int | None = None
    batch_size: int = 8
    device: str | None = None
    dtype: Literal["float32", "float64"] = "float32"
    pictures: int = 4

    def __post_init__(self) -> None:
        for name in ("samples", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} is {value}; it must be above 0")


@dataclass(frozen=True, kw_only=True)
class ImageNet(Common):
    """Positive and negative perturbation of a vision transformer (TransAtt tab. 1, GenAtt tab. 2).

    Attributes:
        data: folder with a folder of images for each class.
        labels: file with the folder's name of each class, one a line, in the model's order; by default the model's label
            names or WordNet ids.
        unit: what is removed: whole patches, or pixels by the relevance between the patches, as TransAtt does.
        perturbed: perturbed images that run at once.
    """

    data: Path
    labels: Path | None = None
    unit: Literal["patches", "pixels"] = "patches"
    perturbed: int = 64


@dataclass(frozen=True, kw_only=True)
class Segmentation(Common):
    """Relevance as a segmentation of the image (TransAtt tab. 2). Give --data, or --images with --masks or --panoptic.

    Attributes:
        data: gtsegs_ijcv.mat, ImageNet-Segmentation.
        images: folder of images.
        masks: folder of masks of the same names; labels that are not 0 are the object.
        ignore: the label in masks that says nothing.
        panoptic: COCO panoptic file, of which all things are the object; its PNGs lie beside it.
    """

    data: Path | None = None
    images: Path | None = None
    masks: Path | None = None
    ignore: int | None = 255
    panoptic: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        truths = [name for name in ("data", "masks", "panoptic") if getattr(self, name) is not None]
        if len(truths) != 1 or (self.images is None) != (truths == ["data"]):
            raise ValueError("give --data gtsegs_ijcv.mat, or --images with either --masks or --panoptic")


@dataclass(frozen=True, kw_only=True)
class Detection(Common):
    """Masks of what DETR detects, from the rows of its queries (GenAtt tab. 1, app. C).

    Attributes:
        images: folder of COCO images.
        annotations: COCO instances file.
        panoptic: COCO panoptic file in its place, whose things are the objects; its PNGs lie beside it.
        threshold: queries whose likeliest class is above it are explained.
        min_iou: the smallest IoU at which a mask may count as right.
        batch_size: images explained at once; larger ones are padded, and need the memory.
    """

    images: Path
    annotations: Path | None = None
    panoptic: Path | None = None
    threshold: float = 0.5
    min_iou: float = 0.2
    batch_size: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.annotations is None) == (self.panoptic is None):
            raise ValueError("give either --annotations or --panoptic")


@dataclass(frozen=True, kw_only=True)
class Rationales(Common):
    """The most relevant words against those that people marked (TransAtt fig. 4).

    Attributes:
        data: folder of an ERASER data set with one document an entry, such as movie reviews.
        split: the file of entries, without .jsonl.
        classes: the data's class names in the model's order, commas between; by default the model's own label names.
        explained: the class that is explained: that of the data, or the one the model predicts.
    """

    data: Path
    split: str = "test"
    classes: str | None = None
    explained: Literal["label", "predicted"] = "label"


def there(path: Path, option: str, folder: bool = False) -> Path:
    """The path; raises MissingData if there is no such file, or no such folder with something in it."""
    if folder and not (path.is_dir() and any(path.iterdir())):
        raise MissingData(
            f"--{option}: {path} is {'empty' if path.is_dir() else 'no folder'}; what should be in it: --help"
        )
    if not folder and not path.is_file():
        raise MissingData(f"--{option}: no file {path}")
    return path

"""Readers of files: for each a small valid folder, and what is read from it as a value that can be compared."""

import base64
import contextlib
import dataclasses
import gzip
import hashlib
import io
import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import h5py
import numpy as np
import pyarrow as pa
import torch
import transformers
import yaml
from datasets import Dataset
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from clipmapper.benchmark.measure import BatchResult
from clipmapper.benchmark.store import Store
from clipmapper.benchmark.tasks.folders import class_indices
from clipmapper.cli import parse_training
from clipmapper.config import ModelConfig, ShapesConfig
from clipmapper.data.answers import AnswerVocabulary
from clipmapper.data.coco import read_captions
from clipmapper.data.features import FeatureCache
from clipmapper.data.hub import read_hub
from clipmapper.data.official import answer_counts, read_official, with_labels
from clipmapper.data.shapes.truth import Truth
from clipmapper.data.shapes.write import write_shapes
from clipmapper.evaluation.command import parse_evaluation
from clipmapper.images import load_image
from clipmapper.logs import make_loggers
from clipmapper.metrics.caption_truth import scenes_of
from clipmapper.models import clip_mapper
from clipmapper.models.checkpoints import check_checkpoint, read_checkpoint
from clipmapper.models.clip import SHAPES_CLIP, FrozenCLIP
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.models.pretrained import from_transformers
from clipmapper.training.run import check_recipe
from xai import Relevance
from xai.adapters.regions import RegionTable, read_npz
from xai.lrp.conservation import Conservation, LayerFlow
from xai.metrics.instances import read_instances
from xai.metrics.masks import imagenet_segmentation, mask_folder
from xai.metrics.panoptic import panoptic_images, panoptic_instances
from xai.metrics.rationales import read_eraser
from xai.report.data import Explanation, Step
from xai.results.modality import ModalityRelevance


class Refused(Exception):
    """What a command says before it ends."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader of some files.

    Attributes:
        write: writes small valid files into an empty folder.
        read: the value of the folder.
        files: those that are mutated, with the kinds of mutations beside those of bytes: names of `test_mutated_files.KINDS`.
        sealed: files of checksums: whatever flips in them is found.
        folder: whether the folder is what a user gives, so that errors may name it rather than a file in it.
    """

    write: Callable[[Path], object]
    read: Callable[[Path], object]
    files: Mapping[str, str]
    sealed: tuple[str, ...] = ()
    folder: bool = False


def plain(value: Any) -> Any:
    """Returns a value as one whose `repr` says all of it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, torch.Tensor):
        return str(value.dtype), value.tolist()
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.tolist()
    if isinstance(value, Image.Image):
        return value.size, value.mode, value.tobytes()
    if isinstance(value, Dataset | pa.Table):
        return list(value.column_names), value.to_pandas().to_dict("list")
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in sorted(value.items(), key=lambda item: str(item[0]))}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


def dump(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


# Questions, annotations, captions

QUESTIONS, ANNOTATIONS = "v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json"


def write_questions(folder: Path) -> None:
    entries = [{"question_id": 10 + i, "image_id": 40 + i // 2, "question": f"What is thing {i}?"} for i in range(3)]
    dump(folder / QUESTIONS, {"info": {}, "questions": entries})
    answers = [[{"answer": "The elm", "answer_id": k} for k in range(3)], [{"answer": "2"}], [{"answer": "yes"}] * 10]
    kinds = [{"question_type": "what is", "answer_type": "other", "multiple_choice_answer": "elm"}, {}, {}]
    whole = [{"question_id": 10 + i, "image_id": 40 + i // 2, "answers": a, **kinds[i]} for i, a in enumerate(answers)]
    dump(folder / ANNOTATIONS, {"annotations": whole})


def read_questions(folder: Path) -> Any:
    found = read_official(folder, "val", folder / "cache")
    return (
        found,
        sorted(answer_counts(found).items()),
        with_labels(found, AnswerVocabulary(("elm", "yes")))["scores"][:],
    )


def write_captions(folder: Path) -> None:
    for split, ids in (("train2014", (1, 2)), ("val2014", (3, 4))):
        entries = [
            {"id": 10 * i + k, "image_id": i, "caption": f"A {k}th view of {i}. "} for i in ids for k in range(2)
        ]
        dump(
            folder / "annotations" / f"captions_{split}.json",
            {"images": [{"id": i} for i in ids], "annotations": entries},
        )
    splits = {1: "train", 2: "restval", 3: "test", 4: "test"}
    dump(folder / "dataset_coco.json", {"images": [{"cocoid": i, "split": split} for i, split in splits.items()]})
    for kind in ("plain", "packed"):
        (folder / kind).mkdir()
    names = "".join(f"COCO_val2014_{i:012d}.jpg\n" for i in (3, 4))
    (folder / "plain" / "coco_test.txt").write_text(names)
    (folder / "packed" / "coco_test.txt.gz").write_bytes(gzip.compress(names.encode(), mtime=0))


def captions(split: str, karpathy: str | None) -> Callable[[Path], Any]:
    return lambda folder: read_captions(folder, split, karpathy and folder / karpathy, folder / "cache")


# COCO's objects, masks, pictures

SIZES = {1: (8, 6), 2: (5, 7)}  # width, height


def write_coco(folder: Path) -> None:
    (folder / "images").mkdir()
    (folder / "panoptic").mkdir()
    images, objects, entries = [], [], []
    for i, (width, height) in SIZES.items():
        Image.new("RGB", (width, height), (40 * i, 90, 9)).save(folder / "images" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
        counts = [3, 6, width * height - 9]
        runs: Any = {"size": [height, width], "counts": counts}
        if i == 2:
            runs["counts"] = rle.frPyObjects(runs, height, width)["counts"].decode()
        place = {"image_id": i, "category_id": 3, "iscrowd": 0}
        objects.append(
            {"id": 70 + i, **place, "segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]], "area": 6.5, "bbox": [1, 1, 3, 2]}
        )
        objects.append({"id": 80 + i, **place, "category_id": 4, "segmentation": runs, "iscrowd": 1})
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[1:3, 1:4, 0], pixels[4, 1:3, 1] = 5, 2
        Image.fromarray(pixels).save(folder / "panoptic" / f"{i}.png")
        segments = [{"id": 5, "category_id": 3, "iscrowd": 0, "area": 6}, {"id": 512, "category_id": 4, "iscrowd": 1}]
        entries.append({"image_id": i, "file_name": f"{i}.png", "segments_info": segments})
    kinds = [{"id": 3, "name": "cat", "isthing": 1}, {"id": 4, "name": "sky", "isthing": 0}]
    dump(folder / "instances.json", {"images": images, "categories": kinds, "annotations": objects})
    dump(folder / "panoptic.json", {"images": images, "categories": kinds, "annotations": entries})


def read_objects(folder: Path) -> Any:
    truth = COCO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of objects without a pixel
        truth.dataset = read_instances(folder / "instances.json")
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth.dataset, [truth.annToMask(entry) for entry in truth.anns.values()]


def read_panoptic(folder: Path) -> Any:
    paths = folder / "panoptic.json", folder / "panoptic"
    return list(panoptic_images(folder / "images", *paths)), panoptic_instances(*paths)


def write_masks(folder: Path) -> None:
    for name in ("images", "masks"):
        (folder / name).mkdir()
    labels = np.random.default_rng(0).choice(np.array([0, 3, 255], np.uint8), (12, 9))
    Image.new("RGB", (9, 12), (9, 9, 9)).save(folder / "images" / "a.jpg")
    Image.fromarray(labels).save(folder / "masks" / "a.png")


def write_picture(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)
    for suffix in ("png", "jpg", "gif", "webp", "tif", "bmp"):
        Image.fromarray(pixels).save(folder / f"a.{suffix}")


def write_gtsegs(folder: Path) -> None:
    with h5py.File(folder / "gtsegs.mat", "w") as file:
        cell = file.create_dataset("refs/cell", (1, 1), h5py.ref_dtype)
        cell[0, 0] = file.create_dataset("refs/mask", data=np.ones((7, 5), dtype=np.uint8)).ref
        image = file.create_dataset("refs/image", data=np.arange(105, dtype=np.uint8).reshape(3, 7, 5))
        for name, of in (("img", image), ("gt", cell)):
            file.create_dataset(f"value/{name}", (1, 1), h5py.ref_dtype)[0, 0] = of.ref


# Regions, rationales, names

BOXES = np.array([[0, 0, 20, 10], [5, 5, 30, 20], [1, 2, 3, 4]], np.float32)
FEATURES = np.arange(12, dtype=np.float32).reshape(3, 4)


def write_regions(folder: Path) -> None:
    parts = [base64.b64encode(array.tobytes()).decode() for array in (BOXES, FEATURES)]
    lines = [f"{i}\t40\t30\t3\t{parts[0]}\t{parts[1]}\n" for i in (7, 8)]
    lines.append(f"9\t30\t40\tAA\tAA\tAA\tAA\t3\t{parts[0]}\t{parts[1]}\n")
    (folder / "regions.tsv").write_text("".join(lines))
    np.savez(folder / "7.npz", features=FEATURES, boxes=BOXES, image_w=40, image_h=30)
    np.savez_compressed(folder / "8.npz", x=FEATURES.T, bbox=BOXES, image_w=40, image_h=30)


def write_eraser(folder: Path) -> None:
    (folder / "docs").mkdir()
    entries = []
    for name, label in (("a", "POS"), ("b", "NEG")):
        (folder / "docs" / name).write_text(f"this film is {label}\nvery much so \u00a0 !\n")
        part = {"start_token": 1, "end_token": 3, "docid": name, "text": "film is"}
        entries.append({"annotation_id": name, "classification": label, "evidences": [[part]], "query": ""})
    del entries[1]["evidences"][0][0]["docid"]
    entries[1]["docids"] = ["b"]
    (folder / "test.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def write_packed_eraser(folder: Path) -> None:
    write_eraser(folder)
    documents = [{"docid": path.name, "document": path.read_text()} for path in sorted((folder / "docs").iterdir())]
    (folder / "docs.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    shutil.rmtree(folder / "docs")


def write_names(folder: Path) -> None:
    dump(folder / "label2ans.json", ["yes", "no", "a red ball"])
    dump(folder / "ans2label.json", {"yes": 0, "no": 2, "a red ball": 1})
    (folder / "labels.txt").write_text("cat\ndog\n")


# Shapes

SHAPES = ShapesConfig(train=1, val=1, test=0, questions=2)


def write_tiny_shapes(folder: Path) -> None:
    folder.rmdir()
    write_shapes(folder, SHAPES, workers=1)


def read_shapes(folder: Path) -> Any:
    write_shapes(folder, SHAPES)  # is it there?
    return scenes_of(folder, [1])


def read_truth(folder: Path) -> Any:
    truth = Truth(folder)
    questions = json.loads((folder / QUESTIONS).read_text())["questions"]
    keys = [(entry["question_id"], entry["question"]) for entry in questions]
    return [(truth.outlines(key), truth.region(key, (9, 9)), truth.words(key, text)) for key, text in keys]


# Settings, models, results

CONFIG = {
    "model": {"clip": SHAPES_CLIP, "pretrained": None, "width": 16, "heads": 2, "layers": 1, "dropout": 0.1},
    "data": {"root": "data", "cache": None, "batch_size": 8, "shapes": {"train": 5, "val": 3}, "hub": None},
    "optimizer": {"lr": 3e-3, "warmup_steps": 3},
    "run": {"loggers": ["csv"], "examples": 2, "dir": "runs/x"},
    "trainer": {"accelerator": "cpu", "max_epochs": 2, "max_time": {"hours": 1}, "devices": [0]},
}


def write_config(folder: Path) -> None:
    (folder / "tiny.yaml").write_text("# a comment\n" + yaml.safe_dump(CONFIG))


def read_config(folder: Path) -> Any:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse_training(["--config", str(folder / "tiny.yaml")], folder / "none").plain
    except SystemExit as end:
        raise Refused(said.getvalue()) from end


def read_evaluation(folder: Path) -> Any:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            words = ["--model", "shapes-b-vqa", "--output", "out", "--config", str(folder / "tiny.yaml")]
            return parse_evaluation(words, folder / "none")
    except SystemExit as end:
        raise Refused(said.getvalue()) from end


@cache
def clip(name: str, pretrained: str | None) -> FrozenCLIP:
    return FrozenCLIP(name, pretrained)


@cache
def tiny_model() -> CLIPMapper:
    torch.manual_seed(0)
    with patch.object(clip_mapper, "FrozenCLIP", clip):
        config = ModelConfig(clip=SHAPES_CLIP, pretrained="shapes", mapper="a", width=8, heads=2, layers=1)
        return CLIPMapper(config, ["yes", "no"])


def write_model(folder: Path) -> None:
    model = tiny_model()
    state = {f"model.{name}": tensor for name, tensor in model.trained_state().items()}
    extra = {"data": {"root": "data/shapes", "held_out": 3}, "optimizer": {"lr": 0.1}, "seed": 0}
    about = {"format": 1, "model": dataclasses.asdict(model.config), "answers": model.answers, "tokens": []}
    about |= {"clip_fingerprint": model.clip.fingerprint, "extra": extra}
    torch.save({"state_dict": state, "clipmapper": about, "global_step": 3}, folder / "best.ckpt")
    (folder / "saved").mkdir()
    model._save_pretrained(folder / "saved")


def read_model(name: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        with patch.object(clip_mapper, "FrozenCLIP", clip), torch.random.fork_rng():
            model = CLIPMapper.from_pretrained(folder / name)
        return model.config, model.answers, model.tokens, model.extra, model.trained_state()

    return read


def read_to_go_on(folder: Path) -> Any:
    content = read_checkpoint(folder / "best.ckpt")
    check_checkpoint(content, tiny_model(), str(folder / "best.ckpt"))
    check_recipe(content, {"optimizer": {"lr": 0.1}, "data": {"held_out": 3}, "seed": 0}, str(folder / "best.ckpt"))
    return content["state_dict"]


def write_transformer(folder: Path) -> None:
    torch.manual_seed(0)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.ViTConfig(**size, image_size=8, patch_size=4, num_labels=2)
    transformers.ViTForImageClassification(config).save_pretrained(folder)


def read_transformer(folder: Path) -> Any:
    model = from_transformers(transformers.AutoModelForImageClassification, str(folder), "image classification")
    return model.state_dict()


def hub_questions() -> Dataset:
    questions = {"question": ["What colour?", "Is it red?"], "answer": ["red", "no"], "question_id": [4, 7]}
    return Dataset.from_dict({**questions, "image": ["a.png", "b.png"]})


def read_hub_folder(folder: Path) -> Any:
    return list(read_hub(str(folder), "train", {}, cache_dir=folder.parent / "cache"))


def write_relevance(folder: Path) -> None:
    mask = torch.ones(1, 5, dtype=torch.bool)
    special = torch.tensor([[True, False, False, False, False]])
    image = ModalityRelevance(torch.rand(1, 5, generator=torch.Generator().manual_seed(0)), mask, special, (2, 2))
    text = ModalityRelevance(
        torch.ones(1, 2), mask[:, :2], ~mask[:, :2], words=(("a", "é"),), boxes=torch.ones(1, 2, 4)
    )
    flow = Conservation(0.5, (LayerFlow("layer.0", 1.0, 0.5, 0.25, "add in x"),))
    pairs = {("text", "image"): torch.rand(1, text.scores.shape[1], 5, generator=torch.Generator().manual_seed(1))}
    parts = {"image": image, "text": text}
    Relevance(parts, "genatt", {"last": 2}, "yes", flow, pairs).save(folder / "why")


def write_parts(folder: Path) -> None:
    rows, rng = ("wra", "random"), np.random.default_rng(0)
    values = {"image/accuracy/positive": rng.random((2, 3, 2)), "image/mass": rng.random((2, 3))}
    shown = {4: {"wra": Explanation(((0.5, 1.0),), (("a", 0.25),), None, (Step(((1.0, 0.0),), (0.0,)),))}}
    columns = {"question": ["3?", "4?", "5?"], "row": [0, 1, 2]}
    result = BatchResult([3, 4, 5], columns, values, {"random": "ValueError: so"}, shown)
    Store(folder, {"methods": ["wra"]}).add(0, result, rows, {"image": (0.0, 1.0)})


def read_parts(folder: Path) -> Any:
    store = Store(folder, {"methods": ["wra"]})
    if not store.complete(0):
        raise Refused(f"{folder}/values-00000.parquet is measured again")
    return store.results(1, ("wra", "random")), store.gallery(1), store.long(1)


METRICS = "csv/clipmapper/run/version_0/metrics.csv"


def write_log(folder: Path) -> None:
    (logger,) = make_loggers(["csv"], folder, "clipmapper", "run", {"seed": 0})
    for step in range(4):
        logger.log_metrics({"loss": 1 / (step + 3), "epoch": step // 2}, step)
    logger.log_metrics({"val/accuracy": 0.5}, 3)
    logger.save()


def read_log(folder: Path) -> Any:
    make_loggers(["csv"], folder, "clipmapper", "run", {"seed": 0}, resume_step=2)
    path = folder / METRICS
    return path.is_file() and path.read_text()


MODEL: dict[str, str | int] = {"model": "tiny"}


def write_features(folder: Path) -> None:
    tokens = torch.arange(12, dtype=torch.float32).reshape(2, 2, 3)
    made = FeatureCache(folder, MODEL)
    made.build({"a": 0, "b": 1}, lambda i: tokens[i], lambda x: x, num_workers=0, progress=False)
    (shard,) = made.folder.glob("*.arrow")
    shard.rename(made.folder / "0.arrow")


def read_features(folder: Path) -> Any:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = FeatureCache(folder, MODEL)
    if found.missing(["a", "b"]):
        raise Refused(str(said[0].message))
    return found.read(["a", "b"])


SHARD = f"{hashlib.sha256(json.dumps(MODEL, indent=2).encode()).hexdigest()[:16]}/0.arrow"
READERS = {
    "questions": Reader(write_questions, read_questions, {QUESTIONS: "json", ANNOTATIONS: "json"}),
    "captions": Reader(write_captions, captions("val", None), {"annotations/captions_val2014.json": "json"}),
    "Karpathy's splits": Reader(write_captions, captions("test", "dataset_coco.json"), {"dataset_coco.json": "json"}),
    "Karpathy's lists": Reader(write_captions, captions("test", "plain"), {"plain/coco_test.txt": "fields"}),
    "Karpathy's packed lists": Reader(
        write_captions, captions("test", "packed"), {"packed/coco_test.txt.gz": "bytes"}, ("packed/coco_test.txt.gz",)
    ),
    "instances": Reader(write_coco, read_objects, {"instances.json": "json"}),
    "panoptic": Reader(
        write_coco, read_panoptic, {"panoptic.json": "json", "panoptic/1.png": "picture"}, ("panoptic/1.png",)
    ),
    "masks": Reader(
        write_masks,
        lambda folder: list(mask_folder(folder / "images", folder / "masks", ignore=255)),
        {"masks/a.png": "picture", "images/a.jpg": "picture"},
        ("masks/a.png",),
    ),
    "pictures": Reader(
        write_picture,
        lambda folder: [load_image(path) for path in sorted(folder.iterdir())],
        dict.fromkeys(("a.png", "a.jpg", "a.gif", "a.webp", "a.tif", "a.bmp"), "picture"),
        ("a.png",),
    ),
    "gtsegs": Reader(
        write_gtsegs, lambda folder: list(imagenet_segmentation(folder / "gtsegs.mat")), {"gtsegs.mat": "bytes"}
    ),
    "table of regions": Reader(
        write_regions, lambda folder: dict(RegionTable(folder / "regions.tsv")), {"regions.tsv": "fields"}
    ),
    "regions of an image": Reader(
        write_regions,
        lambda folder: [read_npz(folder / f"{i}.npz") for i in (7, 8)],
        {"7.npz": "npz", "8.npz": "npz"},
        ("7.npz", "8.npz"),
    ),
    "rationales": Reader(
        write_eraser, lambda folder: read_eraser(folder, "test"), {"test.jsonl": "json lines", "docs/a": "fields"}
    ),
    "rationales, documents in one file": Reader(
        write_packed_eraser, lambda folder: read_eraser(folder, "test"), {"docs.jsonl": "json lines"}
    ),
    "answers": Reader(
        write_names,
        lambda folder: [AnswerVocabulary.from_file(folder / f"{name}.json") for name in ("label2ans", "ans2label")],
        {"label2ans.json": "json", "ans2label.json": "json"},
    ),
    "names of classes": Reader(
        write_names,
        lambda folder: class_indices(["cat", "dog"], {}, 2, folder / "labels.txt"),
        {"labels.txt": "fields"},
    ),
    "truth of Shapes": Reader(
        write_tiny_shapes,
        read_truth,
        {f"annotations/{name}_val2014.json": "json" for name in ("shapes_truth", "instances")},
    ),
    "settings of Shapes": Reader(write_tiny_shapes, read_shapes, {"shapes.json": "json"}),
    "settings": Reader(write_config, read_config, {"tiny.yaml": "yaml"}),
    "settings of an evaluation": Reader(write_config, read_evaluation, {"tiny.yaml": "yaml"}),
    "checkpoint": Reader(write_model, read_model("best.ckpt"), {"best.ckpt": "checkpoint"}, ("best.ckpt",)),
    "checkpoint to go on from": Reader(write_model, read_to_go_on, {"best.ckpt": "checkpoint"}, ("best.ckpt",)),
    "saved model": Reader(
        write_model,
        read_model("saved"),
        {"saved/config.json": "json", "saved/model.safetensors": "bytes"},
        ("saved/model.safetensors",),
    ),
    "model of transformers": Reader(
        write_transformer, read_transformer, {"model.safetensors": "bytes", "config.json": "json"}, folder=True
    ),
    "saved data set": Reader(
        lambda folder: hub_questions().save_to_disk(folder),
        read_hub_folder,
        {"data-00000-of-00001.arrow": "bytes", "state.json": "json", "dataset_info.json": "json"},
        folder=True,
    ),
    "data set of the Hub, lines": Reader(
        lambda folder: hub_questions().to_json(folder / "train.jsonl"),
        read_hub_folder,
        {"train.jsonl": "json lines"},
        folder=True,
    ),
    "data set of the Hub, Parquet": Reader(
        lambda folder: hub_questions().to_parquet(folder / "train.parquet"),
        read_hub_folder,
        {"train.parquet": "bytes"},
        folder=True,
    ),
    "log of a run": Reader(write_log, read_log, {METRICS: "fields"}),
    "features": Reader(write_features, read_features, {SHARD: "bytes"}, (SHARD,)),
    "relevance": Reader(
        write_relevance,
        lambda folder: Relevance.load(folder / "why"),
        {"why.json": "json", "why.safetensors": "bytes"},
        ("why.safetensors",),
    ),
    "parts of a benchmark": Reader(
        write_parts,
        read_parts,
        {f"{kind}-00000.parquet": "bytes" for kind in ("values", "samples", "gallery")} | {"settings.json": "json"},
        tuple(f"{kind}-00000.parquet" for kind in ("values", "samples", "gallery")),
        folder=True,
    ),
}

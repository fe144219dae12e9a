"""Writes Shapes to disk in the official VQAv2 and COCO formats: `python -m clipmapper.data.shapes --root data/shapes`.

The truth of what decides each answer goes into an extra file, `annotations/shapes_truth_{split}2014.json`:
question id -> {"instances": ids of deciding objects' annotations, "words": [start, end] characters of deciding words}.
"""

import json
import os
import re
import shutil
import signal
import socket
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from glob import escape as glob_escape
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from clipmapper.config import MOST_SCENES, ShapesConfig
from clipmapper.config.checks import restored
from clipmapper.data.shapes.captions import captions
from clipmapper.data.shapes.questions import PreparedQuestions, Question, ask
from clipmapper.data.shapes.render import outline, render
from clipmapper.data.shapes.scene import SHAPES, SIDE, Scene, Thing, sample_scene
from xai.files import read_json

ANNOTATORS = 10
LICENCE = {"name": "generated: free of rights", "url": ""}


def write_shapes(root: Path, config: ShapesConfig, workers: int = 2) -> None:
    """Writes the data set; returns at once if it is there. Appears whole or not at all, and removes what a killed process left.

    Raises FileExistsError if `root` holds something else or Shapes of another configuration.
    """
    root = Path(root)
    settings = root / "shapes.json"
    if root.exists():
        if settings.is_file() and read_settings(settings) == config:
            return
        raise FileExistsError(
            f"{root} exists and is not Shapes of {config} by its {settings.name}: remove it or choose another root"
        )
    remove_leftovers(root)
    partial_root = root.with_name(f"{root.name}.partial-{os.getpid()}@{socket.gethostname()}")
    try:
        (partial_root / "annotations").mkdir(parents=True)
        quietly = (signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends them without a traceback each
        with ProcessPoolExecutor(workers, get_context("spawn"), signal.signal, quietly) as pool:
            for number, (split, folder) in enumerate(
                [("train", "train2014"), ("val", "val2014"), ("test", "test2015")]
            ):
                if scenes := getattr(config, split):
                    _write_split(partial_root, folder, scenes, config, number, pool)
        _dump(partial_root / "shapes.json", asdict(config))
        partial_root.replace(root)
    finally:
        shutil.rmtree(partial_root, ignore_errors=True)


def read_settings(path: Path) -> ShapesConfig:
    """The configuration by which Shapes was written. Raises ValueError, naming the file, for one that says something else."""
    return restored(ShapesConfig, read_json(path, "write Shapes anew into another folder"), str(path))


def remove_leftovers(root: Path) -> None:
    """Removes what processes left that died while they wrote `root`; one of another machine may be alive."""
    for path in root.parent.glob(f"{glob_escape(root.name)}.partial-*"):
        match = re.fullmatch(r"(\d+)(?:@(.+))?", path.name.removeprefix(f"{root.name}.partial-"))
        if match and match[2] in (None, socket.gethostname()) and not is_alive(int(match[1])):
            shutil.rmtree(path, ignore_errors=True)


def is_alive(process: int) -> bool:
    """Tells whether there is a process of this number on this machine."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def _write_split(
    root: Path, folder: str, scenes: int, config: ShapesConfig, number: int, pool: ProcessPoolExecutor
) -> None:
    """The pool draws while this process, which has to know all that was asked before, asks questions."""
    (root / folder).mkdir()
    draw = partial(_draw, root / folder, folder, config.seed, number)
    first = 1 + MOST_SCENES * number
    jobs = pool.map(draw, [(i, first + i) for i in range(scenes)], chunksize=100)
    asked: PreparedQuestions = Counter()
    records = [
        _describe(sample_scene((config.seed, number, i)), first + i, folder, config, asked, number)
        for i in tqdm(range(scenes), desc=f"{folder} questions", disable=scenes < 1000)
    ]
    list(tqdm(jobs, total=scenes, desc=f"{folder} images", disable=scenes < 1000))
    _write_annotations(root, folder, records)


def _draw(path: Path, folder: str, seed: int, number: int, scene: tuple[int, int]) -> None:
    index, image_id = scene
    render(sample_scene((seed, number, index))).save(path / _file_name(folder, image_id), quality=95)


def _file_name(folder: str, image_id: int) -> str:
    return f"COCO_{folder}_{image_id:012d}.jpg"


def _describe(
    scene: Scene, image_id: int, folder: str, config: ShapesConfig, asked: PreparedQuestions, number: int
) -> dict[str, Any]:
    rng = np.random.default_rng((config.seed, number, image_id, 1))
    instances = [_instance(thing, image_id, image_id * 100 + i) for i, thing in enumerate(scene)]
    questions = ask(scene, rng, asked, config.questions)
    return {
        "image": {"id": image_id, "file_name": _file_name(folder, image_id), "width": SIDE, "height": SIDE},
        "instances": instances,
        "captions": [
            {"id": image_id * 10 + k, "image_id": image_id, "caption": caption.capitalize() + "."}
            for k, caption in enumerate(captions(scene, rng))
        ],
        "questions": [(image_id * 1000 + k, question) for k, question in enumerate(questions)],
    }


def _instance(thing: Thing, image_id: int, annotation_id: int) -> dict[str, Any]:
    corners = np.round(outline(thing), 2)
    (left, top), (right, bottom) = corners.min(0), corners.max(0)
    x, y = corners.T
    area = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": SHAPES.index(thing.shape) + 1,
        "segmentation": [corners.ravel().tolist()],
        "area": round(float(area), 2),
        "bbox": [round(float(v), 2) for v in (left, top, right - left, bottom - top)],
        "iscrowd": 0,
        "attributes": {"color": thing.colour, "size": thing.size},
    }


def _write_annotations(root: Path, folder: str, records: list[dict[str, Any]]) -> None:
    info = {"description": "Shapes", "version": "1"}
    common = {"info": info, "license": LICENCE, "data_type": "mscoco", "data_subtype": folder}
    pairs = [(record["image"]["id"], key, q) for record in records for key, q in record["questions"]]
    _dump(
        root / f"v2_OpenEnded_mscoco_{folder}_questions.json",
        common
        | {
            "task_type": "Open-Ended",
            "questions": [{"image_id": image, "question": q.text, "question_id": key} for image, key, q in pairs],
        },
    )
    if folder.startswith("test"):
        return  # the answers of a test split are not public
    answered = [_annotation(image, key, q) for image, key, q in pairs]
    _dump(root / f"v2_mscoco_{folder}_annotations.json", common | {"annotations": answered})
    coco = {"info": info, "licenses": [LICENCE], "images": [record["image"] for record in records]}
    categories = [{"id": k + 1, "name": name, "supercategory": "shape"} for k, name in enumerate(SHAPES)]
    instances = [instance for record in records for instance in record["instances"]]
    captioned = [caption for record in records for caption in record["captions"]]
    _dump(
        root / "annotations" / f"instances_{folder}.json", coco | {"annotations": instances, "categories": categories}
    )
    _dump(root / "annotations" / f"captions_{folder}.json", coco | {"annotations": captioned})
    truth = {str(key): {"instances": [image * 100 + i for i in q.things], "words": q.words} for image, key, q in pairs}
    _dump(root / "annotations" / f"shapes_truth_{folder}.json", truth)


def _annotation(image_id: int, question_id: int, question: Question) -> dict[str, Any]:
    answers = [{"answer": question.answer, "answer_confidence": "yes", "answer_id": k + 1} for k in range(ANNOTATORS)]
    return {
        "question_id": question_id,
        "image_id": image_id,
        "question_type": question.family,
        "answer_type": question.answer_type,
        "multiple_choice_answer": question.answer,
        "answers": answers,
    }


def _dump(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))

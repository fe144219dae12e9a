"""One tiny model of each kind beside the mapper, with regions of the Shapes images, saved as their owners would save them."""

import base64
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf

from clipmapper.config import DataConfig, ModelSource
from clipmapper.data.answers import AnswerVocabulary
from clipmapper.data.records import load_split
from clipmapper.data.vqa import Questions
from clipmapper.explain.models.base import VQAModel
from clipmapper.explain.models.load import load_model
from clipmapper.images import load_image
from clipmapper.models.clip import SHAPES_CLIP, FrozenCLIP

WIDTH = 6  # of the regions' features
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZES: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
MakeReference = Callable[..., ModelSource]


@pytest.fixture(scope="session")
def answers(shapes_root: Path) -> list[str]:
    """Those of the held-out questions, the commonest first."""
    records, _ = load_split(DataConfig(root=shapes_root), "val", AnswerVocabulary(("yes",)))
    found = list(records["answer"])
    return sorted(set(found), key=lambda answer: (-found.count(answer), answer))


@pytest.fixture(scope="session")
def questions(shapes_root: Path, answers: list[str], small_clip: FrozenCLIP) -> Questions:
    records, root = load_split(DataConfig(root=shapes_root), "val", AnswerVocabulary(tuple(answers)))
    return Questions(records, root, len(answers), small_clip)


def regions(seed: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and features of 3 to 6 regions."""
    rng = np.random.default_rng(seed)
    count = 3 + seed % 4
    corners = rng.random((count, 2, 2)) * [width, height]
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1).astype(np.float32)
    return boxes, rng.standard_normal((count, WIDTH)).astype(np.float32)


@pytest.fixture(scope="session")
def tables(questions: Questions, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same regions as a table by image id, and as a folder of files named as the images are."""
    folder = tmp_path_factory.mktemp("regions")
    lines = []
    for row in range(len(questions.records)):
        key, path = questions.records[row]["image_id"], Path(str(questions.source(row)))
        width, height = load_image(path).size
        boxes, features = regions(key, width, height)
        encoded = [base64.b64encode(array.tobytes()).decode() for array in (boxes, features)]
        lines.append((str(key), str(width), str(height), str(len(boxes)), *encoded))
        np.savez(folder / f"{path.stem}.npz", features=features, boxes=boxes, image_w=width, image_h=height)
    table = folder.parent / "regions.tsv"
    with open(table, "w", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows(dict.fromkeys(lines))
    return {"folder": folder, "table": table}


def save_tokenizer(questions: Questions, folder: Path) -> int:
    """A WordPiece tokenizer of the questions' words, of which one falls into pieces; gives the size of its vocabulary."""
    texts = " ".join(questions.records["question"]).lower().replace("?", " ?").replace(",", " ,")
    known = [word for word in sorted(set(texts.split())) if word != "many"]
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *known, "ma", "##ny"])}
    tf.BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    return len(vocabulary)


def save_model(kind: str, questions: Questions, answers: list[str], folder: Path) -> None:
    """Weights large enough that what is removed changes the answer."""
    torch.manual_seed(0)
    known = {"vocab_size": save_tokenizer(questions, folder), "id2label": dict(enumerate(answers))}
    if kind == "lxmert":
        layers = {"l_layers": 2, "r_layers": 1, "x_layers": 2, "visual_feat_dim": WIDTH}
        config = tf.LxmertConfig(**known, **SIZES, **layers, num_qa_labels=len(answers))
        model: Any = tf.LxmertForQuestionAnswering(config)
    else:
        config = tf.VisualBertConfig(**known, **SIZES, num_hidden_layers=2, visual_embedding_dim=WIDTH)
        model = tf.VisualBertForQuestionAnswering(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)


@pytest.fixture(scope="session")
def saved(
    questions: Questions, answers: list[str], tables: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, ModelSource]:
    """A configuration of each kind."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("lxmert", "visualbert"):
        save_model(kind, questions, answers, folder / kind)
    (folder / "answers.json").write_text(json.dumps(answers))
    return {
        "lxmert": ModelSource(str(folder / "lxmert"), "lxmert", regions=tables["folder"]),
        "visualbert": ModelSource(str(folder / "visualbert"), "visualbert", regions=tables["table"]),
        "clip": ModelSource(f"{SHAPES_CLIP}:shapes", "clip", candidates=6),
    }


@pytest.fixture(scope="session")
def models(saved: dict[str, ModelSource], answers: list[str]) -> dict[str, VQAModel]:
    """In double precision; treat them as read-only."""
    found = {kind: load_model(reference, answers) for kind, reference in saved.items()}
    for model in found.values():
        model.module.double()
    return found

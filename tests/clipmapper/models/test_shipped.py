"""The mappers that ship with the package: small, and right about scenes that nothing was trained on."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from clipmapper import CLIPMapper
from clipmapper.config import SHIPPED, DataConfig, DecodingConfig, ShapesConfig
from clipmapper.data.answers import AnswerVocabulary
from clipmapper.data.records import load_split
from clipmapper.data.shapes.render import render
from clipmapper.data.shapes.scene import COLOURS, sample_scene
from clipmapper.data.vqa import Questions
from clipmapper.models.clip import ASSETS
from clipmapper.models.decoding import captions

NAMES = ("shapes-a-vqa", "shapes-b-vqa")
UNSEEN = ShapesConfig(train=1, val=25, test=0, questions=6, seed=77)  # training had seed 0


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_mapper_is_small(name: str) -> None:
    assert sum(path.stat().st_size for path in (ASSETS / name).iterdir()) < 5e6


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_mapper_is_filed_by_its_task(name: str) -> None:
    card = CLIPMapper.from_pretrained(name).generate_model_card()
    task = "image-to-text" if name.endswith("caption") else "visual-question-answering"
    assert card.data.to_dict()["pipeline_tag"] == task == ModelCard.load(ASSETS / name / "README.md").data.pipeline_tag


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return DataConfig(root=tmp_path_factory.mktemp("unseen") / "shapes", shapes=UNSEEN, cache=None, workers=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_mapper_answers_unseen_questions(name: str, data: DataConfig) -> None:
    model = CLIPMapper.from_pretrained(name)
    records, root = load_split(data, "val", AnswerVocabulary(tuple(model.answers)))
    batch = Questions(records, root, len(model.answers), model.clip)[list(range(len(records)))]
    with torch.inference_mode():
        predicted = model(model.clip.image_tokens(batch["image"]), batch["ids"], batch["mask"]).argmax(dim=1)
    right = batch["scores"].gather(1, predicted[:, None]) > 0
    assert len(right) > 125 and right.float().mean() > 0.9


def test_a_shipped_mapper_answers_a_picture(data: DataConfig) -> None:
    model = CLIPMapper.from_pretrained("shapes-b-vqa")
    records, root = load_split(data, "val", AnswerVocabulary(tuple(model.answers)))
    asked = next(record for record in records if record["question_type"] == "colour")
    ranked = model.answer(Path(root or "") / asked["image"], asked["question"], top=3)
    assert ranked[0][0] == asked["answer"] and ranked[0][1] > 0.5


@pytest.mark.parametrize("name", ["shapes-a-caption", "shapes-b-caption"])
def test_a_shipped_captioner_names_the_colours_that_are_there(name: str) -> None:
    model = CLIPMapper.from_pretrained(name)
    scenes = [sample_scene((77, 5, i)) for i in range(12)]
    pixels = torch.stack([model.clip.pixels(render(scene)) for scene in scenes])
    written = captions(model.eval(), model.clip.image_tokens(pixels), DecodingConfig())
    right = 0
    for scene, caption in zip(scenes, written, strict=True):
        right += {colour for colour in COLOURS if colour in caption.split()} <= {thing.colour for thing in scene}
    assert right >= 11

"""Model cards: read back as a hub reads them, whatever the texts in them say."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from clipmapper.config import ModelConfig
from clipmapper.export import export
from clipmapper.models.card import base_model, plain
from clipmapper.models.clip import ASSETS
from clipmapper.models.clip_mapper import CLIPMapper

NASTY = 'Is it "red"?\n---\nlicense: other # {{ 1 }} <script>alert(1)</script> ![x](y)'


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


def test_a_card_with_metrics_and_an_explained_example(scene: Path, tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.json"
    metrics.write_text(json.dumps({"accuracy": {"overall": 93.2, "yes/no": 95}, "questions": 7}))
    folder = tmp_path / "model"
    export(ASSETS / "shapes-b-vqa", folder, metrics=metrics, dataset=NASTY, image=scene, question=NASTY)
    card = ModelCard.load(folder / "README.md")
    data = card.data.to_dict()
    assert data["license"] == "mit" and data["pipeline_tag"] == "visual-question-answering"
    assert data["library_name"] == "clipmapper" and {"explainability", "clip"} < {*data["tags"]}
    (result,) = data["model-index"][0]["results"]
    measured = {metric["name"]: metric["value"] for metric in result["metrics"]}
    assert measured == {"accuracy, overall": 93.2, "accuracy, yes/no": 95.0} and result["dataset"]["name"] == NASTY
    assert data["widget"] == [{"src": "example.png", "text": NASTY}]
    assert "![An explanation of one example](explanation.png)" in card.text
    assert "<script>" not in card.text and "![x]" not in card.text
    with Image.open(folder / "explanation.png") as picture:
        assert min(picture.size) > 100
    assert CLIPMapper.from_pretrained(folder).answers


def test_a_card_of_nothing_but_the_model(tmp_path: Path) -> None:
    export(ASSETS / "shapes-a-caption", tmp_path / "model")
    data = ModelCard.load(tmp_path / "model" / "README.md").data.to_dict()
    assert data["pipeline_tag"] == "image-to-text" and not {"model-index", "widget", "base_model"} & data.keys()
    assert not list((tmp_path / "model").glob("*.png"))


def test_the_clip_below_is_named() -> None:
    assert base_model(ModelConfig(clip="ViT-B-32", pretrained="openai")) == "timm/vit_base_patch32_clip_224.openai"
    assert base_model(ModelConfig(clip="ViT-B-32", pretrained="mine.pt")) is None


def test_options_that_do_nothing_are_refused(scene: Path, tmp_path: Path) -> None:
    model, folder = ASSETS / "shapes-b-vqa", tmp_path / "model"
    with pytest.raises(ValueError, match="--question does nothing without --image"):
        export(model, folder, question="?")
    with pytest.raises(ValueError, match="--dataset does nothing without --metrics"):
        export(model, folder, dataset="VQAv2")
    with pytest.raises(ValueError, match="--image needs --question"):
        export(model, folder, image=scene)
    with pytest.raises(ValueError, match="--question: this model writes captions"):
        export(ASSETS / "shapes-a-caption", folder, image=scene, question="?")
    (tmp_path / "metrics.json").write_text("[]")
    with pytest.raises(ValueError, match=r"metrics\.json: holds no accuracy"):
        export(model, folder, metrics=tmp_path / "metrics.json")
    assert not folder.exists()


def test_texts_are_shown_letter_by_letter() -> None:
    assert plain("a\n<b> [c](d)") == "a &lt;b&gt; \\[c\\]\\(d\\)"

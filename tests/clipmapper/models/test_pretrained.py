"""Saved weights that are not what they are taken for are refused, by whichever loader."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from clipmapper.models.pretrained import from_transformers, require_finite

TINY: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
VIT = tf.ViTConfig(**TINY, image_size=16, patch_size=8, num_labels=3)


def weights(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replaces tensors in a saved folder; None leaves one out."""
    path = folder / "model.safetensors"
    state = {**load_file(path), **changes}
    save_file({name: t for name, t in state.items() if t is not None}, path, {"format": "pt"})


def vit(folder: Path) -> Any:
    return from_transformers(tf.AutoModelForImageClassification, str(folder), "image classification")


def test_whole_weights_are_loaded(tmp_path: Path) -> None:
    model = tf.ViTForImageClassification(VIT)
    model.save_pretrained(tmp_path)
    assert vit(tmp_path).classifier.weight.equal(model.classifier.weight)


def test_a_backbone_is_no_classifier(tmp_path: Path) -> None:
    tf.ViTModel(VIT).save_pretrained(tmp_path)
    message = (
        rf"{tmp_path.name} lacks weights of ViTForImageClassification: classifier.bias, classifier.weight.*; it was not"
    )
    with pytest.raises(
        ValueError, match=message + r" trained for image classification; give a folder of .*save_pretrained"
    ):
        vit(tmp_path)


def test_a_head_of_another_size(tmp_path: Path) -> None:
    tf.ViTForImageClassification(VIT).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id2label": {str(i): str(i) for i in range(5)}}))
    with pytest.raises(
        ValueError, match=r"another shape: classifier.bias \[3\] where config.json asks for \[5\], classifier.w"
    ):
        vit(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 0}, "has layers that its config.json leaves out: vit.layers.0.* and 13 more; correct"),
        ({"num_hidden_layers": 2**31}, "its config.json says num_hidden_layers 2147483648; correct it"),
        (
            {"hidden_size": "16"},
            r"transformers makes no model for image classification of its config.json \(.*hidden_size",
        ),
        (
            {"hidden_act": "gelo"},
            r"transformers makes no model .*config.json \(KeyError: 'gelo'\); fetch the folder anew",
        ),
        ({"model_type": "bert"}, r"transformers makes no model .*config.json \(ValueError: Unrecognized"),
        (None, "config.json: truncated or not JSON"),
    ],
)
def test_a_configuration_that_does_not_fit_is_named(tmp_path: Path, changes: dict | None, message: str) -> None:
    tf.ViTForImageClassification(VIT).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text("{" if changes is None else json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        vit(tmp_path)


def test_a_pooler_that_is_read_is_missed(tmp_path: Path) -> None:
    config = tf.BertConfig(**TINY, vocab_size=9)
    tf.BertForSequenceClassification(config).save_pretrained(tmp_path)
    weights(tmp_path, **{"bert.pooler.dense.weight": None})
    with pytest.raises(
        ValueError, match=r"lacks weights of BertForSequenceClassification: bert\.pooler\.dense\.weight;"
    ):
        from_transformers(tf.AutoModelForSequenceClassification, str(tmp_path), "classification")


def test_what_no_logit_reads_may_be_missing(tmp_path: Path) -> None:
    config = tf.VisualBertConfig(**TINY, vocab_size=9, num_labels=2, visual_embedding_dim=4)
    tf.VisualBertForQuestionAnswering(config).save_pretrained(tmp_path / "pooler")
    names = {f"visual_bert.pooler.dense.{name}": None for name in ("weight", "bias")}
    weights(tmp_path / "pooler", **names)
    from_transformers(tf.VisualBertForQuestionAnswering, str(tmp_path / "pooler"), "VQA")
    resnet = tf.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", num_labels=2)
    tf.ResNetForImageClassification(resnet).save_pretrained(tmp_path / "resnet")
    state = load_file(tmp_path / "resnet" / "model.safetensors")
    weights(tmp_path / "resnet", **{name: None for name in state if name.endswith("num_batches_tracked")})
    vit(tmp_path / "resnet")
    weights(tmp_path / "resnet", **{name: None for name in state if name.endswith("running_mean")})
    with pytest.raises(ValueError, match=r"lacks weights of ResNet.*running_mean"):
        vit(tmp_path / "resnet")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    tf.ViTForImageClassification(VIT).save_pretrained(tmp_path)
    weights(tmp_path, **{"classifier.bias": torch.tensor([0, value, 0])})
    with pytest.raises(ValueError, match=rf"{tmp_path.name}: weights are NaN or infinite: classifier.bias; fetch"):
        vit(tmp_path)


def test_truncated_weights(tmp_path: Path) -> None:
    tf.ViTForImageClassification(VIT).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"{tmp_path.name}: its weights are truncated"):
        vit(tmp_path)


def test_the_first_tensors_are_named() -> None:
    tensors = {f"layer {i}": torch.full((2,), float("nan")) for i in range(5)} | {"whole": torch.ones(2).long()}
    with pytest.raises(ValueError, match=r"here: .*: layer 0, layer 1, layer 2 and 2 more; fetch"):
        require_finite(tensors, "here")

"""SigLIP and CLIP of transformers, zero-shot: answers are those of the model's own similarities, with and without tokens."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

from clipmapper.config import ModelSource
from clipmapper.explain.models.base import QuestionBatch
from clipmapper.explain.models.dual_encoder import DualEncoder
from clipmapper.explain.models.load import load_model
from xai import explain_recording
from xai.metrics.perturbation import Perturbed

from ....xai.conftest import IMAGE, TINY
from ....xai.generation.families import loaded, picture

ANSWERS = ["dog", "a picture", "doggy ."]
QUESTIONS = ["a dog", "a doggy of a dog"]
SQUARE = {"height": 16, "width": 16}


def saved(name: str, folder: Path) -> None:
    tokenizer = loaded("BLIP").processor.tokenizer
    text = {
        **TINY,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 16,
        "eos_token_id": 3,
        "projection_size": 16,
    }
    torch.manual_seed(4)
    if name == "siglip":
        model: Any = tf.SiglipModel(tf.SiglipConfig(text_config=text, vision_config={**TINY, **IMAGE}))
        processor: Any = tf.SiglipProcessor(tf.SiglipImageProcessor(size=SQUARE), tokenizer)
    else:
        model = tf.CLIPModel(tf.CLIPConfig(text_config=text, vision_config={**TINY, **IMAGE}, projection_dim=16))
        images = tf.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=SQUARE)
        processor = tf.CLIPProcessor(images, tokenizer)
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


@pytest.fixture(scope="module", params=["siglip", "clip"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DualEncoder:
    folder = tmp_path_factory.mktemp(request.param)
    saved(request.param, folder)
    (folder / "answers.json").write_text(str(ANSWERS).replace("'", '"'))
    found = load_model(ModelSource(str(folder), answers=folder / "answers.json"))
    assert isinstance(found, DualEncoder)
    with pytest.raises(ValueError, match="give their JSON list as `answers`"):
        load_model(ModelSource(str(folder)))
    return found


def batch() -> QuestionBatch:
    return QuestionBatch([picture(0), picture(1)], ["", ""], {"question": QUESTIONS}, [{"dog": 1.0}] * 2)


@torch.no_grad()
def test_answers_and_words(model: DualEncoder) -> None:
    inputs = model.prepare(batch())
    recorded = model.record(inputs, None)
    for i, question in enumerate(QUESTIONS):
        prompts = model.processor(
            images=picture(i),
            text=[f"{question} {a}" for a in ANSWERS],
            padding="max_length",
            max_length=16,
            return_tensors="pt",
        )
        prompts.pop("attention_mask", None)
        own = model.module(pixel_values=prompts["pixel_values"], input_ids=prompts["input_ids"]).logits_per_image[0]
        torch.testing.assert_close(
            own - own[0], model.logits(inputs)[i] - model.logits(inputs)[i, 0], atol=1e-4, rtol=1e-4
        )
        assert recorded.labels[i] == own.argmax()
    shown = explain_recording(recorded.recording, "wra", recorded.target).with_words(recorded.words)
    assert [[word for word, _ in words] for words in shown.by_word("text")] == [q.split() for q in QUESTIONS]


@torch.no_grad()
def test_methods_of_clip_s_own_space(model: DualEncoder) -> None:
    inputs = model.prepare(batch())
    recorded = model.record(inputs, None)
    if type(model.module).__name__ == "SiglipModel":
        with pytest.raises(ValueError, match=r"it is for CLIP of transformers"):
            explain_recording(recorded.recording, "maskclip", recorded.target)
        return
    scores = explain_recording(recorded.recording, "clip_surgery", recorded.target).scores["image"]
    chosen = model.logits(inputs).gather(1, recorded.labels[:, None])[:, 0]
    torch.testing.assert_close(scores[:, 0], chosen)  # of the class token, as it was


@torch.no_grad()
def test_removal(model: DualEncoder) -> None:
    """Patches as of a tower that never had them; words by prompts of which none reads them."""
    inputs = model.prepare(batch())
    recorded = model.record(inputs, None)
    count = 4 + (model.module.config.model_type == "clip")  # CLIP's class token
    keep = torch.ones(2, count, dtype=torch.bool)
    keep[:, -2:] = False
    predict = model.predictor(inputs, recorded, model.protocol("recommended", "image"))
    found = predict(Perturbed(torch.tensor([0, 1]), keep, count - 2))["probability"]
    with model.module.vision_model.embeddings.register_forward_hook(lambda m, args, output: output[:, keep[0]]):
        expected = model.logits(inputs).softmax(dim=1).gather(1, recorded.labels[:, None])[:, 0]
    torch.testing.assert_close(found, expected)
    words = recorded.recording.mask[:, recorded.recording.modalities["text"]].clone()
    for row, span in zip(words, inputs.spans, strict=True):
        row[span] = False
    predict = model.predictor(inputs, recorded, model.protocol("recommended", "text"))
    found = predict(Perturbed(torch.tensor([0, 1]), words, 0))["probability"]
    other = inputs.ids.clone()
    for ids, span in zip(other, inputs.spans, strict=True):
        ids[:, span] = 9  # no word of them is read
    again = replace(inputs, ids=other)
    predict = model.predictor(again, recorded, model.protocol("recommended", "text"))
    torch.testing.assert_close(predict(Perturbed(torch.tensor([0, 1]), words, 0))["probability"], found)

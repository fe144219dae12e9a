"""The LLaVA and the BLIP that ship with the package: small, without code, and right about scenes that nothing was trained on."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, BlipProcessor

from clipmapper.data.shapes.questions import ask
from clipmapper.data.shapes.render import render
from clipmapper.data.shapes.scene import sample_scene
from clipmapper.models.clip import ASSETS
from clipmapper.models.stock.base import DESCRIBE, LONGEST
from xai import explain_generated

UNSEEN = [sample_scene((77, i)) for i in range(8)]  # training had seed 0


@pytest.fixture(scope="module", params=["shapes-llava", "shapes-blip"])
def folder(request: pytest.FixtureRequest) -> Path:
    return ASSETS / request.param


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[Any, Any]:
    return AutoModelForImageTextToText.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


def said(loaded: tuple[Any, Any], image: Image.Image, question: str) -> str:
    """What it generates, by nothing but transformers."""
    model, processor = loaded
    if isinstance(processor, BlipProcessor):  # goes on from the prompt without its end token
        inputs = processor(images=image, text=question, return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=LONGEST)[0, inputs["input_ids"].shape[1] - 1 :]
        return processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    inputs = processor.apply_chat_template([{"role": "user", "content": content}], **options)
    ids = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(ids, skip_special_tokens=True).strip()


def test_it_is_small_and_holds_no_code(folder: Path) -> None:
    files = list(folder.iterdir())
    assert sum(file.stat().st_size for file in files) < 8.2e6
    assert {file.suffix for file in files} <= {".json", ".jinja", ".safetensors", ".md"}


def test_it_answers(loaded: tuple[Any, Any]) -> None:
    asked: Counter[Any] = Counter()
    right: dict[str, list[bool]] = {}
    for i, scene in enumerate(UNSEEN):
        image = render(scene)
        for question in ask(scene, np.random.default_rng(i), asked, 6):
            right.setdefault(question.family, []).append(said(loaded, image, question.text) == question.answer)
    every = [value for values in right.values() for value in values]
    assert len(every) > 40 and np.mean(every) > 0.55, right
    assert np.mean(right["colour"]) > 0.7


def test_its_words_are_explained(loaded: tuple[Any, Any]) -> None:
    image, things = render(UNSEEN[0]), UNSEEN[0].things
    asked = explain_generated(*loaded, images=image, text=f"Is there a {things[0].shape}?", method="genatt")
    assert asked.words == [["yes"]] and asked.word_maps()[0].shape == (1, 8, 8)
    asks = None if isinstance(loaded[1], BlipProcessor) else DESCRIBE  # BLIP captions without a prompt
    told = explain_generated(*loaded, images=image, text=asks, method="genatt")
    (words,) = told.words
    assert " ".join(words).replace(" .", ".").replace(" ,", ",") == said(loaded, image, asks or "")
    named = {thing.shape for thing in things} | {thing.colour for thing in things}
    assert named & {word.rstrip("s") for word in words} and told.word_maps()[0].shape == (len(words), 8, 8)

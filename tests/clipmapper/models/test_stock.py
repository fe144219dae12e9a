"""Models of transformers' own classes: CLIP's tower in them, texts packed into one pass, and what their folders say."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from clipmapper.config import ModelConfig
from clipmapper.data.dialogues import Dialogues
from clipmapper.data.shapes.render import render
from clipmapper.data.shapes.scene import sample_scene
from clipmapper.models.clip import SHAPES_CLIP, FrozenCLIP
from clipmapper.models.stock.base import DESCRIBE, LONGEST, StockModel, attention_mask, seen, vocabulary_of
from clipmapper.models.stock.kinds import STOCK
from clipmapper.models.stock.towers import tower_options
from xai import explain_generated

ASKED = [("Is there a red circle?", "yes"), ("Where is the star?", "top left")]
SAID = ["A red circle and a star.", "Two objects, one red."]
WORDS = [*ASKED, *((None, text) for text in SAID)]


@cache
def built(kind: str, pretrained: str | None = None) -> StockModel:
    config = ModelConfig(kind=kind, clip=SHAPES_CLIP, pretrained=pretrained, layers=2, width=16, heads=2)  # type: ignore[arg-type]
    torch.manual_seed(0)
    model = STOCK[kind](config, vocabulary_of(STOCK[kind].spoken(*pair) for pair in WORDS)).eval()
    tower = {*model.tower.parameters()}
    for parameter in model.parameters():
        if parameter not in tower and parameter.ndim > 1:
            parameter.data *= 8  # else all that is written is alike
    return model


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [render(sample_scene((9, i))) for i in range(3)]


@pytest.fixture(scope="module")
def dialogues(images: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes the texts of two images, which have two questions and a caption, and a question and a caption."""
    root = tmp_path_factory.mktemp("images")
    (root / "val2014").mkdir()
    for name, image in zip("ab", images, strict=False):
        image.save(root / "val2014" / f"{name}.png")
    questions = [
        {"image": f"val2014/{name}.png", "question": q, "answer": a, "answers": [a] * 10}
        for q, a in ASKED
        for name in "ab"
    ]
    captions = [{"image": f"val2014/{name}.png", "caption": text} for name, text in zip("ab", SAID, strict=True)]

    def make(model: StockModel) -> Dialogues:
        return Dialogues(Dataset.from_list(questions[:3]), Dataset.from_list(captions), root, model)

    return make


def folder_of(model: StockModel, path: Path) -> tuple[Any, Any]:
    """Model and processor, as anybody loads them."""
    model.save_pretrained(path)
    return AutoModelForImageTextToText.from_pretrained(path).eval(), AutoProcessor.from_pretrained(path)


def prompted(kind: str, processor: Any, image: Image.Image, question: str | None) -> Any:
    if kind == "blip":
        inputs = processor(images=image, text=question or "", return_tensors="pt")
        return {**inputs, **{name: inputs[name][:, :-1] for name in ("input_ids", "attention_mask")}}
    content = [{"type": "image", "image": image}, {"type": "text", "text": question or DESCRIBE}]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    return processor.apply_chat_template([{"role": "user", "content": content}], **options)


def test_the_tower_of_llava_gives_clips_tokens_before_the_last_norm(images: list[Image.Image]) -> None:
    clip, model = FrozenCLIP(SHAPES_CLIP, "shapes"), built("llava", "shapes")
    pixels = torch.stack([clip.pixels(image) for image in images])
    with torch.no_grad():
        tokens = clip.model.visual.ln_post(model.image_tokens(pixels))
    assert torch.allclose(tokens, clip.image_tokens(pixels), atol=1e-5)
    assert (model.preprocess(images[0]) - pixels[0]).abs().max() < 0.02, "pictures are made smaller by another library"
    assert not any(p.requires_grad for p in model.tower.parameters())


def test_the_tower_of_blip_starts_near_clips(images: list[Image.Image]) -> None:
    clip, model = FrozenCLIP(SHAPES_CLIP, "shapes"), built("blip", "shapes")
    tower = STOCK["blip"](model.config, model.vocabulary).tower
    pixels = torch.stack([clip.pixels(image) for image in images])
    with torch.no_grad():
        ours, theirs = tower(pixels).last_hidden_state, clip.image_tokens(pixels)
    assert torch.cosine_similarity(ours, theirs, dim=-1).mean() > 0.9
    assert torch.cosine_similarity(ours, theirs.roll(1, 1), dim=-1).mean() < 0.8


def test_each_text_sees_the_opening_and_itself() -> None:
    expected = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 1, 0], [0, 0, 0, 0, 1]]
    part = torch.tensor([[0, 1, 1, 2, -1]])
    expected[4][0] = 1  # padding sees the opening too; nobody sees it
    assert seen(part)[0].int().tolist() == expected
    assert attention_mask(part)[0, 0, 3].lt(-1e30).int().tolist() == [0, 1, 1, 0, 1]


@pytest.mark.parametrize("kind", list(STOCK))
def test_the_texts_of_an_image_in_one_pass_are_each_alone(
    kind: str, dialogues: Any, images: list[Image.Image], tmp_path: Path
) -> None:
    model = built(kind)
    batch = dialogues(model)[[0, 1]]
    image = model.image_tokens(batch["image"])
    with torch.no_grad():
        states = model.states(image, batch["ids"], batch["place"], attention_mask(batch["part"]))
        packed = model.logits(states.flatten(0, 1)[batch["following"]])
    loaded, processor = folder_of(model, tmp_path)
    single, targets = [], []
    first, second = ((picture, *ASKED[0]) for picture in images[:2])
    for picture, question, text in (
        *(first, (images[0], *ASKED[1]), (images[0], None, SAID[0])),
        *(second, (images[1], None, SAID[1])),
    ):
        inputs = prompted(kind, processor, picture, question)
        blank = "" if kind == "blip" and question is None else " "
        reply = processor.tokenizer(blank + text, add_special_tokens=False)["input_ids"] + [
            processor.tokenizer.eos_token_id
        ]
        start = inputs["input_ids"].shape[1]
        ids = torch.cat([inputs["input_ids"], torch.tensor([reply])], dim=1)
        with torch.no_grad():
            logits = loaded(
                input_ids=ids, pixel_values=inputs["pixel_values"], attention_mask=torch.ones_like(ids)
            ).logits
        single.append(logits[0, start - 1 : -1])
        targets += reply
    assert batch["targets"].tolist() == targets
    torch.testing.assert_close(packed, torch.cat(single), atol=1e-4, rtol=1e-4)
    ends = batch["targets"] == processor.tokenizer.eos_token_id
    assert ends.sum() == 5 and batch["weights"].sum().item() == pytest.approx(5)
    assert batch["weights"][:2].tolist() == [0.5, 0.5], "yes, and the end"


@pytest.mark.parametrize("kind", list(STOCK))
def test_what_is_written_is_what_the_folder_writes(kind: str, images: list[Image.Image], tmp_path: Path) -> None:
    model = built(kind)
    tokens = model.image_tokens(torch.stack([model.preprocess(image) for image in images])).detach()
    of, questions = [2, 0, 1, 1], [ASKED[0][0], None, ASKED[1][0], ASKED[0][0]]
    written = model.write(tokens, of, questions)
    loaded, processor = folder_of(model, tmp_path)
    for text, i, question in zip(written, of, questions, strict=True):
        inputs = prompted(kind, processor, images[i], question)
        if kind == "blip":
            inputs = processor(images=images[i], text=question or "", return_tensors="pt")  # generate drops the last
        out = loaded.generate(**inputs, max_new_tokens=LONGEST)[0]
        skipped = inputs["input_ids"].shape[1] - (kind == "blip")
        assert processor.tokenizer.decode(out[skipped:], skip_special_tokens=True).strip() == text
    explained = explain_generated(loaded, processor, images=images[0], text=ASKED[0][0], answer=" top left")
    assert explained.words == [["top", "left"]] and {"image", "prompt"} <= explained.steps.scores.keys()


def test_sizes_that_do_not_fit_and_other_towers_are_refused() -> None:
    config = ModelConfig(kind="llava", clip=SHAPES_CLIP, pretrained=None, width=16, heads=3)
    with pytest.raises(ValueError, match=r"model\.heads is 3 and must divide the language model's width, 16"):
        STOCK["llava"](config, built("llava").vocabulary)
    visual = FrozenCLIP(SHAPES_CLIP, None).model.visual
    visual.ln_pre = torch.nn.Identity()
    with pytest.raises(ValueError, match="not built as OpenAI's"):
        tower_options(visual)

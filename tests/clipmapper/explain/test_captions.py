"""Explaining captions: a batch of all steps against one truncated caption at a time, and the public call."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from clipmapper.config import ModelConfig
from clipmapper.explain.answers import record_pass
from clipmapper.explain.captions import (
    Tokens,
    Written,
    caption_relevance,
    explain_caption,
    record_steps,
    steps_of,
    tokens_of,
    written,
)
from clipmapper.explain.weights import METRICS, Cider, caption_weights, metric_drops
from clipmapper.metrics.captions import score
from clipmapper.models.clip import SHAPES_CLIP, clip_tokenizer
from clipmapper.models.clip_mapper import CLIPMapper
from xai import METHODS as EXPLAINER_METHODS
from xai import Target, explain_recording
from xai.explainers.lens import layers_of
from xai.explainers.table import WRITERS
from xai.recording.recording import Recording

WORDS = "a small red hexagon left of two stars , and . dog"
CAPTIONS = ["a hexagon, dog", "small dog"]
FEW: dict[str, dict[str, Any]] = {
    name: {known.counted: max(2, known.least)} for name, known in EXPLAINER_METHODS.items() if known.counted
}
REMOVING = [name for name, known in EXPLAINER_METHODS.items() if known.removes]  # words of a text stay where they are
LRP = [name for name, method in EXPLAINER_METHODS.items() if method.start == "tokens"]
METHODS = [
    name
    for name, method in EXPLAINER_METHODS.items()
    if name != "random" and method.start != "pixels" and method.models in ("", WRITERS)
]  # whose numbers go by place in the batch


def make(mapper: str = "b", **options: Any) -> CLIPMapper:
    torch.manual_seed(0)
    config = ModelConfig(
        SHAPES_CLIP, None, **{"width": 16, "heads": 2, "layers": 2, "mapper": mapper, "task": "caption", **options}
    )
    tokens = sorted({*clip_tokenizer(SHAPES_CLIP)([WORDS])[0].tolist()} - {0})
    model = CLIPMapper(config, ["yes"], tokens=tokens)
    for parameter in model.mapper.parameters():  # large enough that no softmax is flat
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval().double()


def pixels() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def last(label: int) -> Target:
    """The logit of what comes after the whole text."""
    return Target(
        f"given {label}",
        lambda logits: logits[:, -1, label],
        probability=lambda logits: logits[:, -1].softmax(dim=-1)[:, label],
    )


@pytest.fixture(scope="module", params=["a", "b"])
def model(request: pytest.FixtureRequest) -> CLIPMapper:
    return make(request.param)


@pytest.fixture(scope="module")
def steps(model: CLIPMapper) -> Written:
    return steps_of(model, [tokens_of(model, caption) for caption in CAPTIONS])


@pytest.fixture(scope="module")
def recording(model: CLIPMapper, steps: Written) -> Recording:
    return record_steps(model, pixels(), steps, "tokens")


@pytest.fixture(scope="module")
def alone(model: CLIPMapper, steps: Written) -> list[Recording]:
    """Each step by itself: the image and the caption, truncated, in a batch of one."""
    recordings = []
    for picture, caption in zip(pixels(), steps.tokens, strict=True):
        for t in range(len(caption)):
            ids = model.token_ids[torch.tensor([[model.start, *caption[:t]]])]
            recordings.append(record_pass(model, picture[None], ids, torch.ones_like(ids, dtype=torch.bool), "tokens"))
    return recordings


def test_steps_read_what_was_written_before(model: CLIPMapper, steps: Written) -> None:
    assert steps.steps.of.tolist() == 5 * [0] + 2 * [1]
    assert steps.steps.at.tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert steps.mask.sum(dim=1).tolist() == [5, 2]
    decode = model.clip.tokenizer.decode
    read = [decode(row[kept].tolist()) for row, kept in zip(steps.ids, steps.mask, strict=True)]
    assert read == ["<start_of_text>a hexagon , ", "<start_of_text>small "]


def test_recorded_logits_are_the_models_own(model: CLIPMapper, steps: Written, recording: Recording) -> None:
    """Those of one pass over each whole caption: what comes later changes nothing."""
    row = 0
    for number, (picture, caption) in enumerate(zip(pixels(), steps.tokens, strict=True)):
        ids = model.token_ids[torch.tensor([[model.start, *caption]])]
        image = model.clip.image_tokens(picture[None].double())
        logits = model(image, ids, torch.ones_like(ids, dtype=torch.bool))[0]
        torch.testing.assert_close(recording.output[number, : len(caption)], logits[: len(caption)])
        scores = recording.score(steps.target)[row : row + len(caption)]
        torch.testing.assert_close(scores, logits[: len(caption)].gather(1, torch.tensor(caption)[:, None])[:, 0])
        row += len(caption)


def test_the_image_never_attends_to_text(model: CLIPMapper, recording: Recording) -> None:
    image, text, joint = slice(0, 65), slice(65, 70), slice(0, 70)
    mapper = [[(e.queries, e.keys) for e in layer] for layer in recording.layers[4:]]
    if model.config.mapper == "b":
        assert mapper == 2 * [[(image, image), (text, text)], [(image, image), (text, image)]]
    else:
        assert mapper == 2 * [[(joint, joint)]]
        for (event,) in recording.layers[4:]:
            assert (event.A[:, :, image, text] == 0).all() and (event.A[:, :, text, image] > 0).all()
    for event in recording.events:
        torch.testing.assert_close(event.A.sum(dim=-1), torch.ones_like(event.A[..., 0]))
        if event.queries.stop == 70 and event.keys.stop == 70:
            assert (event.A[..., -5:, -5:].triu(1) == 0).all()


@pytest.mark.parametrize("method", [name for name in METHODS if name not in REMOVING])
def test_steps_are_explained_as_each_alone(
    model: CLIPMapper, steps: Written, recording: Recording, alone: list[Recording], method: str
) -> None:
    if method == "tam" and model.config.mapper == "b":
        with pytest.raises(ValueError, match=r"among the words which are written.*cross-attention take dex_ar"):
            explain_recording(recording, method, steps.target)
        return
    found = explain_recording(recording, method, steps.target, **FEW.get(method, {}))
    labels = [token for caption in steps.tokens for token in caption]
    for row in (3, 6) if method in (*FEW, *LRP) else (0, 4, 6):
        expected = explain_recording(alone[row], method, last(labels[row]), **FEW.get(method, {})).scores
        torch.testing.assert_close(found.scores["image"][row], expected["image"][0])
        length = expected["text"].shape[1]
        torch.testing.assert_close(found.scores["text"][row, :length], expected["text"][0])
        assert (found.scores["text"][row, length:] == 0).all()
    assert found.scores["image"].isfinite().all() and found.scores["image"].any()


@pytest.mark.parametrize("method", REMOVING)
def test_patches_are_taken_from_each_step_as_from_it_alone(
    steps: Written, recording: Recording, alone: list[Recording], method: str
) -> None:
    """Words of the text are read themselves, whatever attention may not read: they stay, and have no scores but by AtMan."""
    found = explain_recording(recording, method, steps.target, **FEW.get(method, {}))
    labels = [token for caption in steps.tokens for token in caption]
    assert method == "atman" or not found.scores["text"].any()
    for row, other in ((0, alone[0]), (5, alone[5])):  # before which no word is read
        expected = explain_recording(other, method, last(labels[row]), **FEW.get(method, {})).scores
        torch.testing.assert_close(found.scores["image"][row], expected["image"][0])
    assert found.scores["image"].isfinite().all() and found.scores["image"].any()


def test_the_head_reads_the_mapper_s_states(model: CLIPMapper, steps: Written, recording: Recording) -> None:
    (head,) = recording.heads
    layers = layers_of(recording, head)
    assert [layer.event.module.split(".")[1] for layer in layers] == ["mapper"] * len(layers)
    assert len(layers) == (2 if model.config.mapper == "a" else 4)
    said = head.said(head.read(layers[-1].states), recording.output)
    torch.testing.assert_close(said, recording.output)
    assert head.tokens is not None
    text = head.tokens[:, -steps.ids.shape[1] :]
    assert torch.equal(model.token_ids[text], steps.ids) and (head.tokens[:, : -steps.ids.shape[1]] < 0).all()


def test_later_words_get_nothing(model: CLIPMapper, steps: Written, recording: Recording) -> None:
    relevance = caption_relevance(model, steps, explain_recording(recording, "wra", steps.target))
    assert relevance.words == [["a", "hexagon", ",", "dog"], ["small", "dog"]]
    first, second = relevance.between_words()
    assert (first.triu(1) == 0).all() and (second.triu() == 0).all()
    assert (first.tril(-1).sum(dim=1)[1:] > 0).all() and second[1, 0] > 0
    totals = relevance.steps.scores["image"].sum(dim=1) + relevance.steps.scores["text"].sum(dim=1)
    torch.testing.assert_close(totals, torch.ones_like(totals))


@pytest.fixture
def pictures(tmp_path: Path) -> list[Any]:
    """One of them as a path."""
    generator = torch.Generator().manual_seed(1)
    images = [Image.fromarray(torch.randint(0, 256, (64, 80, 3), generator=generator).byte().numpy()) for _ in range(2)]
    images[1].save(tmp_path / "noise.png")
    return [images[0], tmp_path / "noise.png"]


def test_a_batch_is_explained_as_each_alone(model: CLIPMapper, pictures: list[Any]) -> None:
    references = [["a red star"], ["small dog, two stars", "a dog"]]
    both = explain_caption(model, pictures, CAPTIONS, weights="bleu4", references=references)
    for i, picture in enumerate(pictures):
        one = explain_caption(model, picture, CAPTIONS[i], weights="bleu4", references=references[i])
        torch.testing.assert_close(one.word_maps()[0], both.word_maps()[i])
        torch.testing.assert_close(one.between_words()[0], both.between_words()[i])
        torch.testing.assert_close(one.whole().map()[0], both.whole().map()[i])
        assert one.words[0] == both.words[i]


def test_by_default_the_models_own_caption_is_explained(pictures: list[Any]) -> None:
    model = make(width=16, layers=1).float()
    own = explain_caption(model, pictures[1], method="genatt")
    assert explain_caption(model, pictures[1], method="genatt", backward="libra").words == own.words
    text = model.caption(pictures[1])
    assert "".join("".join(own.tokens[0]).split()) == "".join(text.split())
    (tokens,) = written(model, model.clip.pixels(Image.open(pictures[1]))[None])
    assert len(own.tokens[0]) == len(tokens)


REFERENCES = [["a red hexagon and two stars", "two stars."], ["a small dog", "dog left of a star"]]


def naive_drops(model: CLIPMapper, tokens: Tokens, references: list[list[str]], name: str) -> list[list[float]]:
    """The metric anew for each caption without each token, the other captions whole."""
    full = [model.text_of(caption) for caption in tokens]
    whole = score(full, references, [name], ptb=False).each[name]
    found = []
    for i, caption in enumerate(tokens):
        without = [model.text_of([*caption[:t], *caption[t + 1 :]]) for t in range(len(caption))]
        changed = [[text if k == i else other for k, other in enumerate(full)] for text in without]
        found.append([whole[i] - score(texts, references, [name], ptb=False).each[name][i] for texts in changed])
    return found


def check_drops(model: CLIPMapper, tokens: Tokens, references: list[list[str]], name: str) -> None:
    found = metric_drops(model.text_of, tokens, references, [name])[name]
    expected = naive_drops(model, tokens, references, METRICS[name])
    for drops, values in zip(found, expected, strict=True):
        torch.testing.assert_close(drops, torch.tensor(values, dtype=torch.float64), atol=1e-9, rtol=1e-6)
    assert max(map(max, expected)) > 0
    for weights, drops in zip(caption_weights(model.text_of, tokens, references, name), found, strict=True):
        torch.testing.assert_close(weights, drops.clamp(min=0) / drops.clamp(min=0).sum())


@pytest.mark.parametrize("name", ["bleu4", "cider"])
def test_drops_equal_a_loop(model: CLIPMapper, steps: Written, name: str) -> None:
    check_drops(model, steps.tokens, REFERENCES, name)


def test_cider_counts_images_not_captions() -> None:
    """Ten captions of two images: as each pair of them by pycocoevalcap's own."""
    texts, of = ["a red dog", "two stars left", "a dog", "dog dog dog"], [0, 1, 1, 0]
    found = Cider(REFERENCES)(texts, of)
    for first, second in ((0, 1), (3, 2)):
        expected = score([texts[first], texts[second]], REFERENCES, ["CIDEr"], ptb=False).each["CIDEr"]
        assert found[[first, second]].tolist() == pytest.approx(expected)
    assert found.max() > 0


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({"task": "vqa"}, {}, "answers questions"),
        ({}, {"caption": ["a cat", "a dog"]}, "'cat' is no token that this model writes"),
        ({}, {"caption": ["a dog"]}, "2 images and 1 captions are no pairs"),
        ({}, {"caption": ["a dog", " "]}, "caption 1 has 0 tokens"),
        ({}, {"weights": "blue4"}, "unknown weights .* did you mean 'bleu4'"),
        ({}, {"weights": "bleu4"}, "need references"),
        ({}, {"weights": "cider", "references": REFERENCES[:1]}, "2 captions and 1 lists of references"),
        ({"sees": "question"}, {}, "sees question only"),
    ],
)
def test_errors(pictures: list[Any], options: dict[str, Any], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explain_caption(make(**options), pictures, **{"caption": CAPTIONS, **arguments})


def test_cider_needs_several_images(model: CLIPMapper, pictures: list[Any]) -> None:
    with pytest.raises(ValueError, match="at least two images"):
        explain_caption(model, pictures[0], "a dog", weights="cider", references=["a dog"])

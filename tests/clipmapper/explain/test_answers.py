"""Explaining a mapper's answer: the adapter against literal computations, every explainer, and the public call."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from clipmapper.config import ModelConfig
from clipmapper.explain.answers import (
    FromPixels,
    answer_target,
    explain_answer,
    mapper_adapter,
    preprocessing,
    record_answer,
)
from clipmapper.models.clip import SHAPES_CLIP, image_tokens, text_tokens
from clipmapper.models.clip_mapper import CLIPMapper
from xai import EXPLAINERS, METHODS, explain, explain_recording, given
from xai.explanation import RECOMMENDED
from xai.figures.geometry import upsample
from xai.recording.recording import Recording

QUESTIONS = ["What color is the hexagon?", "Is it red?"]
LENGTHS = (9, 6)  # "hexagon" is two tokens
ANSWERS = ["yes", "no", "red", "2"]
FEW: dict[str, dict[str, Any]] = {
    name: {known.counted: max(2, known.least)} for name, known in METHODS.items() if known.counted
}
Make = Callable[..., CLIPMapper]


def make(mapper: str = "b", **options: Any) -> CLIPMapper:
    torch.manual_seed(0)
    config = ModelConfig(SHAPES_CLIP, None, **{"width": 16, "heads": 2, "layers": 2, "mapper": mapper, **options})
    model = CLIPMapper(config, ANSWERS)
    for parameter in model.mapper.parameters():  # large enough that no softmax is flat
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def pixels() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=["a", "b"])
def model(request: pytest.FixtureRequest) -> CLIPMapper:
    return make(request.param).double()


@pytest.fixture(scope="module")
def recording(model: CLIPMapper) -> Recording:
    return record_answer(model, pixels(), *model.clip.tokenize(QUESTIONS))


@pytest.fixture(scope="module")
def alone(model: CLIPMapper) -> Recording:
    """The second sample, without the padding that the first one brings."""
    return record_answer(model, pixels()[1:], *model.clip.tokenize(QUESTIONS[1:]))


@pytest.mark.parametrize("mapper", ["a", "b"])
@pytest.mark.parametrize("read", ["image", "text"])
def test_recorded_answer_is_the_models_own(mapper: str, read: str) -> None:
    model = make(mapper, read=read).train()
    ids, mask = model.clip.tokenize(QUESTIONS)
    before = [(p.requires_grad, m.training) for m in model.modules() for p in m.parameters(recurse=False)]
    recording = record_answer(model, pixels(), ids, mask)
    assert before == [(p.requires_grad, m.training) for m in model.modules() for p in m.parameters(recurse=False)]
    expected = model.eval()(model.clip.image_tokens(pixels()), ids, mask)
    torch.testing.assert_close(recording.output, expected, atol=1e-5, rtol=1e-5)
    read_rows = recording.readout.argmax(dim=1).tolist()
    assert read_rows == ([0, 0] if read == "image" else [65 + length - 1 for length in LENGTHS])
    assert recording.readout.sum(dim=1).tolist() == [1, 1]


def test_tokens_of_the_joint_axis(recording: Recording) -> None:
    assert recording.modalities == {"image": slice(0, 65), "text": slice(65, 74)} and recording.grids == {
        "image": (8, 8)
    }
    assert recording.mask.sum(dim=1).tolist() == [65 + length for length in LENGTHS]
    special = [row.nonzero()[:, 0].tolist() for row in recording.special]
    assert special == [[0, 65, 65 + length - 1] for length in LENGTHS]


def test_events_in_their_order(model: CLIPMapper, recording: Recording) -> None:
    """CLIP's layers side by side; then A attends in one sequence, B to itself and then across, both ways at once."""
    image, text, joint = slice(0, 65), slice(65, 74), slice(0, 74)
    clip, mapper = recording.layers[:4], [[(e.queries, e.keys) for e in layer] for layer in recording.layers[4:]]
    assert all([(e.queries, e.keys) for e in layer] == [(image, image), (text, text)] for layer in clip)
    block = [[(joint, joint)]]
    if model.config.mapper == "b":
        block = [[(image, image), (text, text)], [(image, text), (text, image)]]
    assert mapper == 2 * block


def test_events_hold_what_the_mapper_computes(model: CLIPMapper, recording: Recording) -> None:
    ids, _ = model.clip.tokenize(QUESTIONS)
    states = (
        model.image_projection(model.clip.image_tokens(pixels().double())),
        model.text_projection(model.clip.text_tokens(ids)),
    )
    first = recording.layers[4]
    torch.testing.assert_close(torch.cat([event.Y for event in first], dim=1), torch.cat(states, dim=1))
    for event in recording.events:  # attention is paid to real tokens alone, and in CLIP's text tower to earlier ones
        torch.testing.assert_close(event.A.sum(dim=-1), torch.ones_like(event.A[..., 0]))
        if event.module.startswith("model.mapper"):
            assert (event.A[1][..., ~recording.mask[1, event.keys]] == 0).all()
        elif event.queries.start:
            assert (event.A.triu(1) == 0).all()
    if model.config.mapper == "b":
        for alone, across in ((0, 1), (2, 3)):  # cross-attention adds to what self-attention made
            for own, other in zip(recording.layers[4 + alone], recording.layers[4 + across], strict=True):
                torch.testing.assert_close(other.Y, own.Y + own.Y_out)


def test_gradients_are_those_of_the_whole_model(model: CLIPMapper, recording: Recording) -> None:
    """Input times gradient against plain autograd from the embeddings, without recording."""
    ids, mask = model.clip.tokenize(QUESTIONS)
    caught: list[Tensor] = []

    def embed(module: Any, args: tuple) -> tuple:
        caught.append(args[0].detach().requires_grad_())
        return (caught[-1], *args[1:])

    towers = (model.clip.model.visual.transformer, model.clip.model.transformer)
    handles = [tower.resblocks[0].register_forward_pre_hook(embed) for tower in towers]
    image, text = image_tokens(model.clip.model, pixels().double()), text_tokens(model.clip.model, ids)
    for handle in handles:
        handle.remove()
    image, text = model.mapper(model.image_projection(image), model.text_projection(text), mask)
    found = torch.autograd.grad(model.head(image[:, 0])[:, 2].sum(), caught)
    scores = explain_recording(recording, "input_gradient", answer_target(model, recording, "red")).scores
    for modality, gradient, embedding in zip(scores, found, caught, strict=True):
        expected = (gradient * embedding).sum(dim=-1)
        assert expected.abs().max() > 0
        torch.testing.assert_close(scores[modality], expected)


@pytest.mark.parametrize("method", EXPLAINERS)
def test_every_method_explains_a_batch_as_its_samples(
    model: CLIPMapper, recording: Recording, alone: Recording, method: str
) -> None:
    both, single = (
        explain_recording(t, method, answer_target(model, t, "red"), **FEW.get(method, {})) for t in (recording, alone)
    )
    for modality, scores in both.scores.items():
        assert scores.isfinite().all() and (scores[~both[modality].mask] == 0).all()
        if method != "random":  # whose numbers go by place in the batch
            kept = single.scores[modality].shape[1]
            torch.testing.assert_close(scores[1:, :kept], single.scores[modality])
    assert any(scores.any() for scores in both.scores.values())


def test_wra_gives_shares(model: CLIPMapper, recording: Recording) -> None:
    scores = explain_recording(recording, "wra", answer_target(model, recording)).scores
    total = scores["image"].sum(dim=1) + scores["text"].sum(dim=1)
    torch.testing.assert_close(total, torch.ones_like(total))
    assert (scores["text"].sum(dim=1) > 0).all() and (scores["image"].sum(dim=1) > 0).all()


@pytest.fixture
def pictures(tmp_path: Path) -> list[Any]:
    """One of them as a path."""
    generator = torch.Generator().manual_seed(1)
    sizes = [(96, 64), (70, 110)]
    images = [Image.fromarray(torch.randint(0, 256, (h, w, 3), generator=generator).byte().numpy()) for w, h in sizes]
    images[1].save(tmp_path / "noise.png")
    return [images[0], tmp_path / "noise.png"]


def test_a_batch_of_questions_is_explained_as_each_alone(pictures: list[Any]) -> None:
    model = make()
    both = explain_answer(model, pictures, QUESTIONS, answer=["red", "2"])
    assert both.target == "red, 2" and both.method == RECOMMENDED
    for i, (picture, question, answer) in enumerate(zip(pictures, QUESTIONS, ["red", "2"], strict=True)):
        one = explain_answer(model, picture, question, answer=answer)
        assert one.target == answer and not one.scores["image"].requires_grad
        torch.testing.assert_close(one.map()[0], both.map()[i])
        assert one.by_word()[0] == [(word, pytest.approx(value, abs=1e-5)) for word, value in both.by_word()[i]]
    assert [word for word, _ in both.by_word()[0]] == ["what", "color", "is", "the", "hexagon", "?"]
    assert both["text"].words[0][5:7] == ("hex", "agon ")


def test_by_default_the_models_own_answer_is_explained(pictures: list[Any]) -> None:
    model = make()
    answer = model.answer(pictures[0], QUESTIONS[0])
    own, named = (explain_answer(model, pictures[0], QUESTIONS[0], answer=name) for name in (None, answer))
    assert own.target == answer and torch.equal(own.scores["image"], named.scores["image"])
    other = explain_answer(model, pictures[0], QUESTIONS[0], answer=next(a for a in ANSWERS if a != answer))
    assert not torch.allclose(own.scores["image"], other.scores["image"])


def test_options_reach_the_method(pictures: list[Any]) -> None:
    model = make()
    last, every = (explain_answer(model, pictures[0], QUESTIONS[0], "genatt", last=k) for k in (1, None))
    assert last.options == {"last": 1} and not torch.equal(last.scores["image"], every.scores["image"])
    libra = explain_answer(model, pictures[0], QUESTIONS[0], "input_gradient", backward="libra")  # recorded with rules
    cp = explain_answer(model, pictures[0], QUESTIONS[0], "cp_lrp")
    torch.testing.assert_close(libra.scores["image"], cp.scores["image"])


def test_the_general_call_takes_the_adapter() -> None:
    model = make()
    ids, mask = model.clip.tokenize(QUESTIONS)
    inputs = {"pixels": pixels(), "ids": ids, "mask": mask}
    scores = explain(FromPixels(model), inputs, "genatt", given(2), adapter=mapper_adapter(model)).scores
    recording = record_answer(model, pixels(), ids, mask)
    expected = explain_recording(recording, "genatt", answer_target(model, recording, "red")).scores
    torch.testing.assert_close(scores, expected)


def test_overlay_is_drawn(pictures: list[Any], tmp_path: Path) -> None:
    model = make()
    relevance = explain_answer(model, pictures[0], QUESTIONS[0])
    relevance.save_overlay(tmp_path / "why.png", [pictures[0]], geometry=preprocessing(model.clip))
    with Image.open(tmp_path / "why.png") as drawn:
        assert drawn.width > 100


def test_geometry_undoes_the_preprocessing() -> None:
    """Of a wide picture the middle is seen: its pixels come back to their places."""
    model = make()
    ramp = torch.linspace(0, 255, 96).expand(64, 96)
    picture = Image.fromarray(torch.stack([ramp, ramp.flip(1), ramp], dim=-1).byte().numpy())
    config = model.clip.preprocess_config
    seen = model.clip.pixels(picture) * torch.tensor(config["std"])[:, None, None]
    seen = 255 * (seen + torch.tensor(config["mean"])[:, None, None])
    back = upsample(seen, preprocessing(model.clip)((64, 96)))
    assert back[..., :16].isnan().all() and back[..., 80:].isnan().all()
    torch.testing.assert_close(back[0, :, 17:79], ramp[:, 17:79], atol=3, rtol=0)


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({}, {"answer": "rad"}, "unknown answer 'rad'; did you mean 'red'"),
        ({}, {"answer": ["red", "no", "no"]}, "3 answers for 2 questions"),
        ({}, {"question": QUESTIONS[:1]}, "2 images and 1 questions are no pairs"),
        ({}, {"method": "wrra"}, "unknown method 'wrra'"),
        ({"sees": "question"}, {}, r"sees question only \(model.sees\)"),
        ({"task": "caption"}, {}, "writes captions"),
    ],
)
def test_errors(pictures: list[Any], options: dict[str, Any], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explain_answer(make(**options), pictures, **{"question": QUESTIONS, **arguments})


@pytest.mark.parametrize(("method", "options"), [("tis", {"budget": 24}), ("greedy", {"budget": 40}), ("atman", {})])
def test_searches_of_a_question_are_those_of_its_batch(
    model: CLIPMapper, recording: Recording, alone: Recording, method: str, options: dict[str, Any]
) -> None:
    """A mapper runs without tokens by its own way, and with tokens suppressed by that of all models."""
    both = explain_recording(recording, method, answer_target(model, recording, "red"), **options).scores
    one = explain_recording(alone, method, answer_target(model, alone, "red"), **options).scores
    for modality, scores in one.items():
        torch.testing.assert_close(both[modality][1:, : scores.shape[1]], scores, rtol=1e-5, atol=1e-9)
        assert scores.any() and not both[modality][1:, scores.shape[1] :].any()

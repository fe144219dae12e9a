"""What is asked, explained and removed, without a page."""

import struct
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from clipmapper.app import asked
from clipmapper.app import models as of_models
from clipmapper.app.asked import Numbers, Request, explained, picture_of, question_of, stages
from clipmapper.app.models import Models, has_rivals, methods_for, usable
from clipmapper.app.scenes import examples
from clipmapper.explain import explain_answer, explain_caption
from clipmapper.explain.models.captioner import MapperCaptioner
from clipmapper.explain.models.mapper import MapperModel
from clipmapper.images import BadImage, png
from xai.metrics.perturbation import perturb
from xai.metrics.protocols import named

EXAMPLE = examples(1)[0]
QUESTION = "What color is the large cross?"


@pytest.fixture(scope="module")
def vqa(models: Models) -> MapperModel:
    model = models["shapes-b-vqa"]
    assert isinstance(model, MapperModel)
    return model


@pytest.fixture(scope="module")
def captioner(models: Models) -> MapperCaptioner:
    model = models["shapes-a-caption"]
    assert isinstance(model, MapperCaptioner)
    return model


def request(model: str = "shapes-b-vqa") -> Request:
    return Request(model, EXAMPLE.image, QUESTION if model.endswith("vqa") else "")


def test_scenes_are_the_same_in_every_run_and_have_questions() -> None:
    first, second = examples(3), examples(3)
    assert [png(one.image) for one in first] == [png(one.image) for one in second]
    assert len({png(one.image) for one in first}) == 3
    assert all(len(set(one.questions)) > 2 for one in first) and first == second


@pytest.mark.parametrize("text", [None, "", " \n\t "])
def test_an_empty_question_is_told(text: str | None) -> None:
    with pytest.raises(ValueError, match="the question is empty; write one"):
        question_of(text)


def test_a_question_has_an_end_and_its_blanks_are_one() -> None:
    assert question_of("  What\n color? ") == "What color?"
    assert len(question_of("a" * asked.QUESTION)) == asked.QUESTION
    with pytest.raises(ValueError, match="the question has 10000 letters; ask one of at most 300"):
        question_of("a" * 10_000)


def enlarged(side: int) -> bytes:
    """A PNG whose head says that it is so large."""
    file = bytearray(png(Image.new("L", (4, 4))))
    file[16:24] = struct.pack(">II", side, side)
    file[29:33] = struct.pack(">I", zlib.crc32(file[12:29]))
    return bytes(file)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (png(EXAMPLE.image)[:-900], "not a readable image"),
        (b"no picture", "not a readable image"),
        (b"", "not a readable image"),
        (enlarged(7_000), "bad.png has more than the 40 million pixels"),
        (enlarged(20_000), "bad.png has more than the 40 million pixels"),
    ],
)
def test_a_bad_picture_is_told_by_its_name_without_its_folder(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(BadImage, match=r"bad\.png") as raised:
        picture_of(str(tmp_path / "bad.png"))
    assert said in str(raised.value) and str(tmp_path) not in str(raised.value)


def test_a_picture_that_is_not_there_is_told(tmp_path: Path) -> None:
    for path in (None, "", str(tmp_path / "gone.png")):
        with pytest.raises(BadImage, match=r"upload one|no such image"):
            picture_of(path)


def test_texts_have_numbers() -> None:
    numbers = Numbers()
    assert [numbers.get(text, 0.0) for text in ("red", "blue", "red")] == [0, 1, 0]
    assert numbers(["blue", "green"], [0, 0]).tolist() == [[1, 2]] and numbers.text(2.0) == "green"


def test_an_answer_has_the_probabilities_and_maps_of_the_model(vqa: MapperModel) -> None:
    found = explained(vqa, request(), ["wra", "attn_lrp"])
    assert found.said == found.target == "red"
    expected = vqa.model.answer(EXAMPLE.image, QUESTION, top=5)
    assert [name for name, _ in found.answers] == [name for name, _ in expected]
    torch.testing.assert_close(
        torch.tensor([p for _, p in found.answers]), torch.tensor([float(p) for _, p in expected])
    )
    for method, shown in found.explanations.items():
        relevance = explain_answer(vqa.model, EXAMPLE.image, QUESTION, method)
        torch.testing.assert_close(torch.tensor(shown.patches), relevance.map()[0], rtol=1e-4, atol=1e-6)
        assert [word for word, _ in shown.words] == [word for word, _ in relevance.by_word()[0]]
    assert list(found.explanations) == ["wra", "attn_lrp"] and not found.errors


def test_another_answer_and_a_contrast_are_explained(vqa: MapperModel) -> None:
    own, other, against = (
        explained(vqa, request(), ["attn_lrp"], answer, rival)
        for answer, rival in ((None, None), ("white", None), ("red", "white"))
    )
    assert (own.target, other.target, against.target) == ("red", "white", "red rather than white")
    assert own.said == other.said == against.said == "red"
    difference = own.scores - other.scores  # AttnLRP is linear in what is explained
    torch.testing.assert_close(against.scores, difference, rtol=1e-3, atol=1e-3 * float(difference.abs().max()))
    white = dict(other.answers).get("white", 0.0)
    assert next(stages(vqa, other)).values["attn_lrp"][0] == pytest.approx(white, abs=1e-3)


@pytest.mark.parametrize(
    ("methods", "answer", "rival", "said"),
    [
        ([], None, None, "no method is chosen"),
        (["wra"], "rad", None, "unknown answer of this model 'rad'; did you mean 'red'"),
        (["wra"], None, "red", "cannot be explained against itself"),
        (["wraa"], None, None, "unknown method 'wraa'"),
    ],
)
def test_what_cannot_be_explained_is_told(
    vqa: MapperModel, methods: list[str], answer: str | None, rival: str | None, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        explained(vqa, request(), methods, answer, rival)


def test_a_method_that_does_not_fit_costs_the_others_nothing(vqa: MapperModel) -> None:
    found = explained(vqa, request(), ["maskclip", "wra"])
    assert list(found.explanations) == ["wra"] and list(found.errors) == ["maskclip"]
    assert found.errors["maskclip"] and not found.errors["maskclip"].startswith("ValueError")
    assert set(next(stages(vqa, found)).values) == {"wra"}
    alone = explained(vqa, request(), ["maskclip"])
    with pytest.raises(ValueError, match="no method has a map"):
        next(stages(vqa, alone))


def test_patches_are_removed_step_by_step_as_the_benchmark_removes_them(vqa: MapperModel) -> None:
    found = explained(vqa, request(), ["wra", "consensus"])
    past = list(stages(vqa, found))
    protocol = named("recommended", "image")
    assert [stage.share for stage in past] == list(protocol.shares)
    whole = perturb(found.scores, found.removable, torch.tensor([0]), found.predictor(protocol), protocol)
    for place, method in enumerate(("wra", "consensus")):
        curves = torch.tensor([stage.values[method] for stage in past]).T
        torch.testing.assert_close(curves, whole["probability"][place, :, 0], rtol=1e-4, atol=1e-5)
    assert past[0].said == ("red", "red") and past[0].values["wra"][0] == pytest.approx(found.answers[0][1], abs=1e-4)
    assert all(said in vqa.answers for stage in past for said in stage.said)
    assert past[3].kept.shape == (2, 8, 8) and past[3].kept.sum(dim=(1, 2)).tolist() == [54, 54]
    strongest = found.scores[0, 0, 1:].argmax()
    assert [bool(kept.flatten()[strongest]) for kept in past[1].kept] == [False, True]


def test_a_caption_has_a_map_for_every_word_and_is_written_anew(captioner: MapperCaptioner) -> None:
    found = explained(captioner, request("shapes-a-caption"), ["wra"])
    alone = explain_caption(captioner.model, EXAMPLE.image, method="wra")
    shown = found.explanations["wra"]
    assert [word for word, _ in shown.words] == alone.words[0] and len(shown.steps) == len(shown.words)
    torch.testing.assert_close(torch.tensor(shown.steps[2].patches), alone.word_maps()[0][2], rtol=1e-4, atol=1e-6)
    past = [stage for stage, _ in zip(stages(captioner, found), range(6), strict=False)]
    assert past[0].said == (found.said, found.said) and past[0].values["wra"][0] == pytest.approx(0, abs=1e-3)
    assert past[-1].said[0] != found.said and past[-1].values["wra"][0] < -1


def test_methods_are_those_of_the_model(models: Models, vqa: MapperModel, captioner: MapperCaptioner) -> None:
    names = methods_for(vqa)
    assert (names[0], names[-1]) == ("consensus", "random") and len(names) == len(set(names)) > 30
    assert not {"tam", "maskclip", "exclip", "pixel_lrp"} & set(names)
    assert {*methods_for(captioner)} - {*names} == {"tam", "dex_ar"}
    assert has_rivals(vqa) and not has_rivals(captioner)
    assert models["shapes-b-vqa"] is vqa


def test_few_models_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Made:
        def to(self, device: torch.device) -> "Made":
            return self

    loads: list[str] = []
    monkeypatch.setattr(of_models, "usable", lambda name: loads.append(name) or Made())
    several = Models(torch.device("cpu"))
    for name in ("a", "b", "a", "c", "a", "b"):
        several[name]
    assert loads == ["a", "b", "c", "b"]


def test_models_that_cannot_be_asked_are_told(monkeypatch: pytest.MonkeyPatch, vqa: MapperModel) -> None:
    for name, said in (
        ("", "no model is named"),
        ("x" * 5000, "a model's name of 5000 letters is none"),
        ("shapes-b-vqaa", "did you mean 'shapes-b-vqa'"),
        ("{nam: x}", "did you mean 'name'"),
        ("{name: shapes-b-vqa, prompt: x}", "prompt is no option"),
    ):
        with pytest.raises(ValueError, match=said):
            usable(name)
    monkeypatch.setattr(of_models, "load_model", lambda source: vqa.model)
    monkeypatch.setattr(vqa.model.config, "sees", "question")
    with pytest.raises(ValueError, match="the model sees question only"):
        usable("blind")

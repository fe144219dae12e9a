"""What the page shows, and what its parts do, without a browser."""

import json
import logging
import socket
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipmapper.app import __main__ as command
from clipmapper.app.asked import Request, explained, stages
from clipmapper.app.models import Models
from clipmapper.app.page import Page, build, offered, require_free, sentence
from clipmapper.app.scenes import examples
from clipmapper.app.views import (
    answer_view,
    notice,
    removal_view,
    script,
    strip_pictures,
    style,
    to_show,
    without_patches,
)
from xai.figures.geometry import shortest, squash

HOSTILE = "<img src=x onerror='window.hacked = 1'></script>& \"cross\"?"
IMAGE = examples(1)[0].image


@pytest.fixture(scope="module")
def page(models: Models) -> Page:
    return Page(models, "shapes-b-vqa", free=False)


@pytest.fixture
def file(tmp_path: Path) -> str:
    IMAGE.save(tmp_path / "scene.png")
    return str(tmp_path / "scene.png")


def test_text_of_others_is_no_markup(models: Models) -> None:
    model, request = models["shapes-b-vqa"], Request("shapes-b-vqa", IMAGE, HOSTILE)
    found = explained(model, request, ["wra"])
    for view in (answer_view(request, found, model.geometry), notice(HOSTILE)):
        assert "<" not in view
    values = json.loads(answer_view(request, found, model.geometry))
    assert values["sample"]["question"] == HOSTILE and values["sample"]["image"].startswith("data:image/webp;base64,")
    assert "innerHTML" not in script() and ":root" not in style()


def test_a_question_that_is_read_in_part_alone_is_told(models: Models) -> None:
    model, told = models["shapes-b-vqa"], []
    for question in ("What color is the cross?", "Is it red? " * 27, "赤い 十字 は 何色 ？"):
        request = Request("shapes-b-vqa", IMAGE, question)
        told.append(json.loads(answer_view(request, explained(model, request, ["wra"]), model.geometry))["cut"])
    assert told == [False, True, False]


def test_removal_is_shown_as_far_as_it_went(models: Models) -> None:
    model, request = models["shapes-b-vqa"], Request("shapes-b-vqa", IMAGE, "How many crosses are there?")
    found = explained(model, request, ["wra", "rollout"])
    steps = stages(model, found)
    past = [next(steps) for _ in range(3)]  # 0, 5 and 10 %, of which the strip has the ends
    pictures = [strip_pictures(IMAGE, past[i], model.geometry) for i in (0, 2)]
    values = json.loads(removal_view(request, found, past, pictures, 13))
    assert values["figure"] == "probability of “3”" and values["by"] == "wra" and not values["done"]
    assert len(values["shares"]) == 13 and values["shares"][:3] == [0, 0.05, 0.1]
    most, least = values["charts"]
    assert [curve["method"] for curve in most["curves"]] == ["wra", "rollout"]
    assert most["curves"][0]["mean"][3:] == [None] * 10 and None not in most["curves"][0]["mean"][:3]
    assert [shown["share"] for shown in least["strip"]] == [0, 0.1] and most["strip"][0]["said"] == "3"


def test_removed_patches_are_striped_and_what_is_not_seen_is_pale() -> None:
    image = Image.new("RGB", (60, 40), (200, 0, 0))
    kept = torch.tensor([[True, False], [True, True]])
    shown = np.asarray(without_patches(image, kept, lambda size: squash(size, size)))
    assert (shown[20:] == (200, 0, 0)).all() and (shown[:20, :30] == (200, 0, 0)).all()
    stripes = shown[:20, 30:]
    assert (stripes[..., 0] == stripes[..., 1]).all() and len(np.unique(stripes)) == 2
    cropped = np.asarray(without_patches(image, kept, lambda size: shortest(size, 20)))
    assert (cropped[:, :9, 1] > 150).all() and (cropped[25:, 15:45, 1] == 0).all()


def test_pictures_of_all_shapes_are_shown() -> None:
    for size, shown in (
        ((128, 128), (320, 320)),
        ((4000, 1000), (320, 80)),
        ((3000, 1), (320, 1)),
        ((1, 1), (320, 320)),
    ):
        assert to_show(Image.new("RGB", size), 320).size == shown


def test_errors_are_sentences(caplog: pytest.LogCaptureFixture, page: Page) -> None:
    with pytest.raises(ValueError, match="none of the models that this page offers") as raised:
        page.model("/etc")
    assert "choose one of the list" in sentence(raised.value)
    with caplog.at_level(logging.ERROR, "clipmapper"):
        assert "(KeyError)" in sentence(KeyError("secret")) and "secret" not in sentence(KeyError("secret"))
    assert caplog.records


def test_where_the_page_cannot_be_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for host, number, said in (
            ("127.0.0.1", port, f"--port {port} cannot be listened on; give another one"),
            ("127.0.0.1", 99_999, "--port is 99999; give one of 1 to 65535"),
            ("203.0.113.7", None, "--host 203.0.113.7 is no address of this machine"),  # of no machine: for documents
        ):
            with pytest.raises(ValueError, match=said):
                require_free(host, number)
    require_free("127.0.0.1", None)


@pytest.mark.parametrize("there", [None, "5.49.1", "6.16.0"])
def test_a_missing_or_old_gradio_is_told(monkeypatch: pytest.MonkeyPatch, there: str | None) -> None:
    def version(name: str) -> str:
        if there is None:
            raise PackageNotFoundError(name)
        return there

    monkeypatch.setattr(command, "version", version)
    with pytest.raises(ImportError, match=r"gradio 6\.17\.3 or newer: pip install 'gradio>=6\.17\.3'"):
        command.app()


def test_asking_tells_what_is_wrong_and_hides_what_is_not_there(page: Page, tmp_path: Path, file: str) -> None:
    (tmp_path / "bad.png").write_bytes(b"no")
    for arguments, said in (
        (("shapes-b-vqa", None, "What?"), "upload one"),
        (("shapes-b-vqa", str(tmp_path / "bad.png"), "What?"), "not a readable image"),
        (("shapes-b-vqa", file, ""), "the question is empty"),
        (("nowhere", file, "What?"), "none of the models"),
    ):
        view, request, contrast, *_, part, removal = page.ask(*arguments, ["wra"])
        assert said in json.loads(view)["notice"]
        assert request is None and removal is None and not contrast["visible"] and not part["visible"]
    (view,) = page.remove(None, ["wra"], "", "")
    assert "nothing was asked yet" in json.loads(view)["notice"]


def test_what_was_asked_is_explained_whatever_the_page_says_since(page: Page, file: str) -> None:
    view, request, contrast, own, rival, part, _ = page.ask(
        "shapes-b-vqa", file, "What color is the large cross?", ["wra"]
    )
    assert json.loads(view)["answers"][0][0] == "red" and contrast["visible"] and part["visible"]
    assert own["choices"][0][0].startswith("red ") and ("white", "white") in rival["choices"]
    again, cleared = page.explain(request, ["wra"], "", "white")
    assert json.loads(again)["target"] == "red rather than white" and cleared is None
    last = json.loads([*page.remove(request, ["wra"], "", "white")][-1])
    assert last["done"] and last["figure"] == "probability of “red”" and len(last["charts"][0]["strip"]) == 6


def test_a_model_decides_what_is_offered(page: Page) -> None:
    _, question, tries, go, methods, *_ = page.choose("shapes-a-caption")
    assert (question["visible"], tries["visible"], go["value"]) == (False, False, "Describe the picture")
    assert methods["value"] == ["consensus"] and ("tam", "tam") in methods["choices"]
    assert ("shapley (many runs)", "shapley") in offered(page.models["shapes-b-vqa"])
    assert page.choose("shapes-b-vqa")[1]["visible"]


def test_the_page_is_built_without_files_beside_it(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    import clipmapper.app

    blocks = build(models, "shapes-b-vqa", free=True)
    assert not blocks.analytics_enabled and not list(Path(clipmapper.app.__file__).parent.glob("*.pyi"))
    visible = [f.api_visibility for f in blocks.fns.values()]
    assert set(visible) == {"private"}

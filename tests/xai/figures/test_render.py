"""Pictures: heat on the right pixels, all words there and inside the page, nothing read as markup."""

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

import xai
from xai import Relevance, explain
from xai.figures.geometry import shortest
from xai.figures.page import CHIP, PICTURE, flow, width_of
from xai.figures.render import colours, compare, label, overlay, pixels

from ..conftest import build, relevance_of

QUESTION = [
    *[
        "[CLS]",
        "what",
        "is",
        "the",
        "un",
        "##believ",
        "##able",
        "$",
        "5",
        "_",
        "6",
        "\\frac",
        "^",
        "thing",
        "{",
        "with",
    ],
    *["100", "%", "<b>", "&", "the", "#1", "name", "?", "[SEP]"],
]
GREY = np.full((60, 90, 3), 128, dtype=np.uint8)


def relevance(batch: int = 1, signed: bool = False) -> Relevance:
    """One hot patch, in the top right corner of 2 x 3, and one hot word, "thing"; the special tokens hotter."""
    image, text = torch.zeros(batch, 7), torch.zeros(batch, len(QUESTION))
    image[:, 0], text[:, 0], text[:, -1] = 9, 9, 9
    image[:, 3], text[:, QUESTION.index("thing")] = 2, 2
    if signed:
        image[:, 4], text[:, 1] = -1, -2
    mask = {"image": torch.ones(batch, 7).bool(), "text": torch.ones(batch, len(QUESTION)).bool()}
    special = {"image": image == 9, "text": text == 9}
    found = relevance_of({"image": image, "text": text}, mask, special, {"image": (2, 3)}, "predicted")
    return found.with_words([QUESTION] * batch)


def shown(figure: Figure) -> list[np.ndarray]:
    """The pictures, without the bar of the scale."""
    return [np.asarray(image.get_array()) for image in figure.axes[0].images[:-1]]


def redness(picture: np.ndarray) -> np.ndarray:
    return picture[..., 0] - picture[..., 2]


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_heat_lies_on_the_hot_patch() -> None:
    plain, heat = shown(overlay(relevance(), [GREY]))
    assert np.allclose(plain, 128 / 255)
    assert heat.shape == (60, 90, 3)
    hot = np.unravel_index(heat[..., 1].argmin(), (60, 90))
    assert hot[0] < 16 and hot[1] >= 74  # the centre of the patch and what is beyond
    assert abs(redness(heat)[30:, :30]).max() < 0.01


def test_heat_lies_where_the_model_looked() -> None:
    """Of 90 x 60 pixels the model saw 60 x 60 in the middle; the rest is paler."""
    _, heat = shown(overlay(relevance(), [GREY], lambda size: shortest(size, 60)))
    hot = np.unravel_index(heat[..., 1].argmin(), (60, 90))
    assert hot[0] < 16 and 60 < hot[1] < 75
    assert np.allclose(heat[:, :15], heat[0, 0]) and np.allclose(heat[:, 75:], heat[0, 0])
    assert heat[0, 0, 0] > heat[50, 20, 0] + 0.2


def test_without_images_patches_are_drawn_alone() -> None:
    (heat,) = shown(overlay(relevance()))
    rows, columns = heat.shape[:2]
    assert columns == 3 * rows / 2
    assert redness(heat)[: rows // 2, 2 * columns // 3 :].min() > 0.2
    assert redness(heat)[rows // 2 :].max() < 0.01


def test_signed_scores_are_red_and_blue() -> None:
    (heat,) = shown(overlay(relevance(signed=True)))
    assert redness(heat).max() > 0.2 and redness(heat).min() < -0.2
    assert words(overlay(relevance(signed=True)))[-2:] == ["against", "for the target"]
    assert words(overlay(relevance()))[-2:] == ["none", "most relevant"]


def test_colours_are_white_at_zero_and_darken_evenly_on_both_sides() -> None:
    lightness = colours(np.linspace(-1, 1, 101)) @ [0.2126, 0.7152, 0.0722]
    assert lightness.argmax() == 50 and lightness[50] > 0.95
    assert (np.diff(lightness[:50]) > 0).all() and (np.diff(lightness[51:]) < 0).all()


def test_words_carry_the_colour_of_their_score() -> None:
    figure = overlay(relevance())
    chips = figure.axes[0].patches
    written = words(figure)[: len(chips)]
    red = {word: redness(np.array(chip.get_facecolor())) for word, chip in zip(written, chips, strict=True)}
    assert red["thing"] > 0.2
    assert all(abs(value) < 0.01 for word, value in red.items() if word != "thing")
    expected = ["what", "is", "the", "unbelievable", "$", "5", "_", "6", "\\frac", "^", *QUESTION[13:-1]]
    assert written == [*expected, "image 50%", "text 50%"]  # letter by letter, without [CLS] and [SEP]


def drawn(figure: Figure) -> Any:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # a dollar read as mathematics would raise here
    return canvas.get_renderer()


@pytest.mark.parametrize("images", [True, False])
def test_nothing_is_clipped_and_words_do_not_overlap(images: bool) -> None:
    title = "Why $\\frac{1}{2 does_this ^ cost $5 " + 3 * "Donaudampfschifffahrtsgesellschaft"
    sizes = [(60, 90), (200, 50), (64, 64)]
    given = [Image.new("RGB", size) for size in sizes] if images else None
    figure = overlay(relevance(3), given, titles=[title, "short", ""])
    renderer = drawn(figure)
    texts = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    for box in [*texts, *(patch.get_window_extent(renderer) for patch in figure.axes[0].patches)]:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height
    assert not any(a.overlaps(b) for i, a in enumerate(texts) for b in texts[:i])
    for chip, text in zip(
        figure.axes[0].patches, (t for t in figure.axes[0].texts if t.get_size() == CHIP), strict=True
    ):
        inner, outer = text.get_window_extent(renderer), chip.get_window_extent(renderer)
        assert outer.x0 <= inner.x0 and inner.x1 <= outer.x1


def test_pictures_are_as_large_as_fits_one_square() -> None:
    figure = overlay(relevance(3), [Image.new("RGB", size) for size in [(60, 90), (200, 50), (7, 7)]])
    for image in figure.axes[0].images[:-1]:
        left, right, bottom, top = image.get_extent()
        height, width = image.get_array().shape[:2]
        assert max(right - left, bottom - top) == pytest.approx(PICTURE)
        assert (right - left) / (bottom - top) == pytest.approx(width / height)


def test_compare_has_a_column_for_each_method() -> None:
    other = replace(relevance(2, signed=True), method="attcat", options={"last": 2}, target=None)
    figure = compare([relevance(2), other], [GREY, GREY], titles=["one", "two"])
    lefts = sorted({round(image.get_extent()[0], 3) for image in figure.axes[0].images[:-1]})
    assert len(shown(figure)) == 6 and len(lefts) == 3
    assert [word for word in words(figure) if word in ("one", "two", "wra: predicted", "attcat(last=2)")] == [
        *["one", "wra: predicted", "attcat(last=2)"],
        *["two", "wra: predicted", "attcat(last=2)"],
    ]
    assert words(figure)[-2:] == ["against", "for the target"]


def test_regions_are_boxes_over_the_image() -> None:
    scores = torch.tensor([[0.1, 2.0, 1.0, 5.0]])
    mask = torch.tensor([[True, True, True, False]])
    boxes = torch.tensor([[[0.0, 0, 90, 60], [10, 20, 30, 40], [20, 30, 50, 50], [60, 0, 90, 30]]])
    found = relevance_of({"regions": scores}, {"regions": mask}, {"regions": ~mask & False}, {}, "predicted")
    figure = overlay(found.with_boxes(boxes), [GREY])
    heat = redness(shown(figure)[1])
    assert heat[39, 29] == heat[20, 10] == heat.max()  # where two lie over each other, the stronger
    assert 0 < heat[5, 80] < heat[45, 45] < heat.max()
    assert heat[41, 15] == heat[5, 80]
    outlines = figure.axes[0].patches
    assert [round(patch.get_width() / patch.get_height(), 3) for patch in outlines] == [1.5, 1.0]  # strongest on top
    assert drawn(overlay(found.with_boxes(boxes)))
    assert words(overlay(found))[:3] == ["1", "2", "3"]


def test_several_texts_have_names() -> None:
    family = build("lxmert")
    figure = overlay(explain(family.model, family.inputs, "wra", family.target))
    assert words(figure)[:5] == ["regions", "1", "2", "3", "4"]
    assert words(figure)[5:11] == ["text", "2", "3", "4", "5", "6"]


@pytest.mark.parametrize("name", ["vit", "bert", "clip", "visualbert", "lxmert", "detr"])
def test_every_family_can_be_drawn_with_nothing_given(name: str, tmp_path: Path) -> None:
    family = build(name)
    explain(family.model, family.inputs, "genatt", family.target).save_overlay(tmp_path / "new" / "why.png")
    with Image.open(tmp_path / "new" / "why.png") as image:
        assert min(image.size) > 100
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_formats(tmp_path: Path) -> None:
    for name, start in (("why.pdf", b"%PDF"), ("why.png", b"\x89PNG"), ("why", b"\x89PNG"), ("why.svg", b"<?xml")):
        relevance().save_overlay(tmp_path / name, [GREY], [QUESTION], lambda size: shortest(size, 60), ["Why?"])
        assert (tmp_path / name).read_bytes().startswith(start)


def test_all_zero_scores_are_white() -> None:
    zero = relevance().with_scores({name: 0 * value for name, value in relevance().scores.items()})
    (heat,) = shown(overlay(zero))
    assert abs(redness(heat)).max() < 0.01


def test_images_of_all_kinds_are_the_same_pixels() -> None:
    array = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    for image in (array, array / 255, Image.fromarray(array), torch.from_numpy(array).movedim(-1, 0)):
        np.testing.assert_allclose(pixels(image), array / 255)
    assert pixels(Image.new("L", (5, 4), 255)).shape == (4, 5, 3)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 5)), r"shape \[4, 5\]"),
        (torch.zeros(4, 5, 3), r"shape \[5, 3, 4\]"),
        (np.full((4, 5, 3), 1.7), "1.7"),
    ],
)
def test_images_that_cannot_be_shown(image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pixels(image)


def test_one_image_and_title_a_sample() -> None:
    with pytest.raises(ValueError, match="1 images for 2 samples"):
        overlay(relevance(2), [GREY])
    with pytest.raises(ValueError, match="3 titles for 2 samples"):
        compare([relevance(2)], titles=["a", "b", "c"])


def test_flow_fills_lines_and_breaks_words_that_do_not_fit() -> None:
    words = ["ab", "cd", 40 * "x", "ef"]
    lines = flow(words, 1.0, 10)
    assert "".join(part for line in lines for _, part, _ in line) == "".join(words)
    assert [part for _, part, _ in lines[0]][:2] == ["ab", "cd"] and len(lines) > 3
    assert all(x + width_of(part, 10) <= 1 for line in lines for _, part, x in line)
    assert flow([], 1.0, 10) == []


def test_label() -> None:
    assert (
        label(replace(relevance(), options={"last": 2, "normalise": False}))
        == "wra(last=2, normalise=False): predicted"
    )


def test_no_global_state_of_matplotlib() -> None:
    for name in ("render", "page"):
        text = (Path(xai.__file__).parent / "figures" / f"{name}.py").read_text()
        assert not [node for node in ast.walk(ast.parse(text)) if "pyplot" in ast.dump(node)]
    before = dict(matplotlib.rcParams)
    drawn(overlay(relevance()))
    assert dict(matplotlib.rcParams) == before

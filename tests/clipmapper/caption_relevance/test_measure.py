"""Explained captions measured: maps made up by hand against scenes, removed patches against a loop."""

import numpy as np
import pytest
import torch
from torch import Tensor

from clipmapper.caption_relevance.measure import AVERAGE, Captioned, Measured, naming
from clipmapper.caption_relevance.perturbation import FIGURES, Judge, dropping, predictor
from clipmapper.caption_relevance.summary import (
    against_average,
    by_image,
    by_row,
    curves_table,
    perturbation_summary,
)
from clipmapper.caption_relevance.truth import named_words, region
from clipmapper.config import DecodingConfig
from clipmapper.data.shapes.render import render
from clipmapper.data.shapes.scene import Scene, Thing
from clipmapper.explain.weights import Cider
from clipmapper.metrics.captions import clip_scores
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.models.decoding import write
from xai import Relevance
from xai.metrics.perturbation import perturb
from xai.metrics.protocols import SCHEDULES
from xai.results.captions import CaptionRelevance

GRID = (8, 8)  # patches of 16 of a scene's pixels


def thing(colour: str, shape: str, x: float, y: float, radius: float = 28, size: str = "large") -> Thing:
    return Thing(shape, colour, size, x, y, radius, 0.0, (255, 0, 0))


@pytest.fixture
def scene() -> Scene:
    """A red square around the corner of four patches, top left; a blue star, bottom left; a small red star, right."""
    things = (
        thing("red", "square", 32, 32),
        thing("blue", "star", 32, 96),
        thing("red", "star", 100, 64, radius=14, size="small"),
    )
    return Scene(things, "plain", ((0, 0, 0), (0, 0, 0)), False, 0)


def test_named_words(scene: Scene) -> None:
    """What the whole phrase fits: both red things are "red objects", one is "a red square", none is a green star."""
    texts = ["two red objects and a large star .", "a red square and a green star"]
    found, wrong = named_words([text.split() for text in texts], [scene, scene])
    assert [(w.caption, w.place, w.word, w.kind, w.things) for w in found] == [
        (0, 1, "red", "colour", (0, 2)),
        (0, 5, "large", "size", (1,)),
        (0, 6, "star", "shape", (1,)),
        (1, 1, "red", "colour", (0,)),
        (1, 2, "square", "shape", (0,)),
    ]
    assert wrong == 2


def test_region_is_what_the_things_cover(scene: Scene) -> None:
    """The square reaches 19.6 pixels from its centre (32, 32): all of 4 patches, and 3.6 of 16 pixels of those around."""
    share = region(scene, [0], GRID)
    assert (share[1:3, 1:3] == 1).all() and share[4:].sum() == 0 and share[:, 4:].sum() == 0
    assert share[0, 1].item() == pytest.approx(0.225, abs=0.05)
    both = region(scene, [0, 2], GRID)
    assert (both >= share).all() and both[4, 6] > 0 and (region(scene, [], GRID) == 0).all()
    with pytest.raises(ValueError, match="square"):
        region(scene, [0], (7, 8))


def explained(maps: Tensor) -> CaptionRelevance:
    """ "red square" and "a blue star" with maps [5, 8, 8]."""
    class_token = torch.full((5, 1), 100.0)
    image = torch.cat([class_token, maps.flatten(1)], dim=1)
    special = torch.arange(65).expand(5, 65) == 0
    mask = torch.ones(5, 65, dtype=torch.bool)
    steps = Relevance({"image": image}, {"image": mask}, {"image": special}, {"image": GRID}, "wra", {}, None)
    weights = (torch.tensor([0.5, 0.5]), torch.tensor([0.0, 0.0, 1.0]))
    return CaptionRelevance(steps, (("red ", "square "), ("a ", "blue ", "star ")), weights)


def test_truth_of_made_up_maps(scene: Scene) -> None:
    """ "red" inside the square, "square" half inside and half on nothing, "blue" nowhere, "star" on nothing."""
    maps = torch.zeros(5, *GRID)
    maps[0, 1:3, 1:3] = 3
    maps[1, 1, 1] = maps[1, 7, 7] = 2
    maps[2, 0, 7] = 1
    maps[4, 0, 7] = 1
    relevance = explained(maps)
    part = Captioned([7, 8], [], [], [], [scene, scene])
    wholes = {("wra", AVERAGE): relevance.whole()}
    found = naming({"wra": relevance}, wholes, part, GRID)
    assert found["word"].words == ["red", "square", "blue", "star"] and found.unnamed == 0
    assert found.words["image_id"] == [7, 7, 8, 8] and found["place"].words == [0, 1, 1, 2]
    assert found.in_words is not None and found.in_whole is not None
    mass, rank, silent = found.in_words
    star = region(scene, [1], GRID)
    chance = float(star.mean())
    assert mass[0].tolist() == pytest.approx([1, 0.5, chance, 0])  # a silent map scores as chance
    assert silent[0].tolist() == [0, 0, 1, 0]
    square = region(scene, [0], GRID)
    assert mass[2].tolist() == pytest.approx([float(square.mean())] * 2 + [chance] * 2)
    left = float(square.sum()) - 4  # of what counts for rank beside the four patches, spread over the rest by chance
    assert rank[0, 0] == pytest.approx((4 + left * (float(square.sum()) - 4) / 60) / float(square.sum()), rel=1e-4)
    inside, outside = 0.5 * 12 + 0.5 * 2, 0.5 * 2
    assert found.in_whole[0, 0].tolist() == pytest.approx([inside / (inside + outside), 0])


def test_a_caption_that_names_nothing_has_no_truth(scene: Scene) -> None:
    relevance = explained(torch.ones(5, *GRID))
    spoken = CaptionRelevance(relevance.steps, (("two ", "objects "), ("a ", "green ", "star ")), relevance.weights)
    found = naming(
        {"wra": spoken}, {("wra", AVERAGE): spoken.whole()}, Captioned([7, 8], [], [], [], [scene, scene]), GRID
    )
    assert found["word"].words == [] and found.unnamed == 2
    assert found.in_words is not None and found.in_words.shape == (3, 3, 0)
    assert found.in_whole is not None and np.isnan(found.in_whole[:2]).all()


def test_means_are_over_images() -> None:
    values = np.array([[1.0, 3, 8], [0, 0, 1]])
    assert by_image(values, np.array([4, 4, 2])).tolist() == [[8, 2], [1, 0]]
    assert by_row(["a"], np.array([[1.0, 3]]))["a"]["mean"] == 2
    wholes = [("wra", AVERAGE), ("rollout", AVERAGE), ("wra", "cider")]
    gains = against_average(wholes, np.array([[1.0, 2], [5, 5], [2, 5]]))
    assert list(gains) == ["wra/cider"] and gains["wra/cider"]["mean"] == 2


@pytest.fixture(scope="module")
def captioner() -> CLIPMapper:
    return CLIPMapper.from_pretrained("shapes-b-caption")


REFERENCES = [["a red square and a blue star", "two stars"], ["a small red star"]]


def test_removing_equals_a_loop(captioner: CLIPMapper, scene: Scene) -> None:
    """Each image with its patches cut out of the sequence by hand, captioned alone and scored alone."""
    model = captioner
    pictures = [render(scene), render(Scene(scene.things[1:], "plain", ((0, 0, 90), (0, 0, 90)), False, 0))]
    pixels = torch.stack([model.clip.pixels(picture) for picture in pictures])
    original = write(model, model.clip.image_tokens(pixels), DecodingConfig())
    protocol = dropping("wra")
    judge = Judge.of(model.clip, pictures, REFERENCES)
    relevance = torch.arange(65.0).expand(1, 2, 65) * torch.tensor([1.0, -1])[:, None]
    removable = torch.ones(2, 65, dtype=torch.bool).index_fill(1, torch.tensor(0), False)
    predict = predictor(model, pixels, original.tokens, judge, [0, 1])
    found = perturb(relevance, removable, torch.tensor([0, 1]), predict, protocol)
    assert found["log_probability"].shape == (1, 2, 2, len(SCHEDULES["wra"]))
    visual = model.clip.model.visual
    for direction, row, step in ((0, 0, 0), (0, 0, 5), (1, 1, 6), (0, 1, 8)):
        count = int((1 - SCHEDULES["wra"][step]) * 64)
        last_go = (direction == 0) == (row == 0)  # the most relevant patches of row 0 are the last ones
        kept = range(1, 1 + count) if last_go else range(65 - count, 65)
        with torch.no_grad():
            embedded = visual._embeds(pixels[row : row + 1])[:, [0, *kept]]
            left = visual.ln_post(visual.transformer(embedded))
            text = model.text_of(write(model, left, DecodingConfig()).tokens[0])
            likely = teacher_forced(model, left, original.tokens[row]) - float(original.log_probability[row])
        score = clip_scores(model.clip, judge.images[row : row + 1], [text], [REFERENCES[row]]).corpus["RefCLIPScore"]
        cider = float(Cider(REFERENCES)([text], [row])[0])
        expected = dict(zip(FIGURES, (score, cider, likely), strict=True))
        for name, value in expected.items():
            assert found[name][0, direction, row, step].item() == pytest.approx(value, abs=2e-3), (name, text)
    assert (found["log_probability"][..., 0].abs() < 1e-3).all() and (found["log_probability"][..., 8] < -1).all()


def teacher_forced(model: CLIPMapper, image: Tensor, caption: list[int]) -> float:
    """One token after the other, each by the logits after all before it."""
    total, tokens = 0.0, [model.start]
    for token in [*caption, model.end]:
        ids = model.token_ids[torch.tensor([tokens])]
        logits = model(image, ids, torch.ones_like(ids, dtype=torch.bool))[0, -1]
        total += float(logits.log_softmax(dim=0)[token])
        tokens.append(token)
    return total


def test_captions_are_judged_once(captioner: CLIPMapper, scene: Scene) -> None:
    judge = Judge.of(captioner.clip, [render(scene)] * 2, REFERENCES)
    texts, images = ["a red star", "a blue star", "a red star"], [1, 0, 1]
    first = judge(texts, images)
    assert len(judge.known) == 2 and torch.equal(first[:, 0], first[:, 2]) and not torch.equal(first[:, 0], first[:, 1])
    assert torch.equal(judge(texts[1:], images[1:]), first[:, 1:])


def test_tables_of_removed_patches() -> None:
    """One image, one map and three random ones; the caption gets less likely by the share squared, or not at all."""
    protocol = dropping("transatt")
    shares = torch.tensor(protocol.shares)
    curves = torch.zeros(4, 2, 1, 9)
    curves[0, 0] = -(shares**2)
    curves[1:, 0] = -shares * torch.tensor([1.0, 2, 3])[:, None, None]
    measured = Measured({}, None, None, 0, {"log_probability": curves})
    found = perturbation_summary(measured, [("wra", AVERAGE)], protocol)["log_probability"]
    trapezoid = sum(-((k / 10) ** 2 + ((k + 1) / 10) ** 2) / 2 for k in range(1, 9)) / 8
    assert found["positive"]["wra/average"]["mean"] == pytest.approx(trapezoid)
    assert found["srg"]["wra/average"]["mean"] == pytest.approx(-trapezoid)
    assert found["positive"]["random"]["mean"] == pytest.approx(-2 * 0.5)
    assert found["curves"]["random"]["positive"]["mean"] == pytest.approx((-2 * shares).tolist())
    table = curves_table(measured, [("wra", AVERAGE)], protocol, [7]).to_pandas()
    assert len(table) == 4 * 2 * 9 and set(table.image_id) == {7}
    third = table[(table.method == "random") & (table.weights == "2") & (table.direction == "positive")]
    assert third.log_probability.tolist() == pytest.approx((-3 * shares).tolist())

"""Which patches belong to which words of Shapes."""

import torch

from clipmapper.data.shapes.scene import Scene, Thing
from clipmapper.explain.ground_truth import scene_region, word_regions

THINGS = (
    Thing("circle", "red", "small", 32.0, 32.0, 15.0, 0.0, (255, 0, 0)),
    Thing("square", "red", "large", 96.0, 96.0, 28.0, 0.0, (255, 0, 0)),
)
SCENE = Scene(THINGS, "plain", ((0, 0, 0), (0, 0, 0)), False, 0)


def test_a_word_belongs_to_the_objects_of_its_phrase() -> None:
    tokens = [
        ["<start_of_text>", "is ", "the ", "red ", "cir", "cle ", "blue ", "? ", "<end_of_text>", ""],
        ["<start_of_text>", "how ", "many ", "red ", "objects ", "? ", "<end_of_text>", "", "", ""],
    ]
    regions = word_regions(tokens, [SCENE, SCENE], (4, 4))
    circle, both = (scene_region(SCENE, things, (4, 4)).flatten() for things in ((0,), (0, 1)))
    assert regions.shape == (2, 10, 16) and circle.any() and not torch.equal(circle, both)
    for place, expected in ((3, circle), (4, circle), (5, circle)):
        assert torch.equal(regions[0, place], expected)
    assert torch.equal(regions[1, 3], both)
    for sample, named in ((0, {3, 4, 5}), (1, {3})):
        assert not regions[sample, [i for i in range(10) if i not in named]].any()

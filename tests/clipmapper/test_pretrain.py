import numpy as np
import pytest
import torch

from clipmapper.data.shapes.materials import NOTHING, OPEN, VALUES, Materials, fits, make_materials
from clipmapper.data.shapes.render import mask
from clipmapper.data.shapes.scene import COLOURS, SHAPES, SIDE, SIZES, sample_scene
from clipmapper.models.clip import SHAPES_CLIP, create_clip
from clipmapper.pretrain import Pretraining, augment

GRID = 8


@pytest.fixture(scope="module")
def materials() -> Materials:
    return make_materials(0, 64, GRID, range(24))


def test_fits_asks_for_every_attribute_that_is_not_open() -> None:
    found = torch.tensor([[[0, 1, 2, 3], [NOTHING] * 4]])
    wanted = torch.tensor([[0, 1, 2, 3], [OPEN, 1, OPEN, OPEN], [1, 1, 2, 3], [OPEN, OPEN, OPEN, 4], [OPEN] * 4])
    assert fits(found, wanted)[0].tolist() == [[True, True, False, False, True], [False] * 5]


def test_patches_have_the_attributes_of_the_object_on_them(materials: Materials) -> None:
    for i in range(24):
        scene = sample_scene((0, i), least=1, most=6)
        cells = [mask(thing).reshape(GRID, SIDE // GRID, GRID, SIDE // GRID).mean((1, 3)).ravel() for thing in scene]
        for patch, codes in enumerate(materials.patches[i].tolist()):
            covers = [cell[patch] for cell in cells]
            if max(covers) < 0.14:
                assert codes == [NOTHING] * 4
            elif max(covers) > 0.16:
                thing = scene.things[int(np.argmax(covers))]
                assert tuple(VALUES[k][codes[k]] for k in range(3)) == (thing.size, thing.colour, thing.shape)


def test_every_phrase_is_true_of_its_own_scene(materials: Materials) -> None:
    for i in range(24):
        assert (
            fits(materials.patches[i][None], materials.codes[i]).any(1).float().mean() > 0.7
        )  # tiny ones fill no patch
    assert (materials.codes.max(), len(VALUES[1]), VALUES[0], VALUES[2]) <= (12, 12, tuple(SIZES), SHAPES)
    assert tuple(COLOURS) == VALUES[1]


def test_most_wrong_captions_differ_from_the_true_ones(materials: Materials) -> None:
    differs = (materials.details[..., 0, :] != materials.details[..., 1, :]).any(-1)
    assert differs.float().mean() > 0.9


def test_augmentation_keeps_range_and_place() -> None:
    torch.manual_seed(0)
    images = torch.full((8, 3, 64, 64), 60.0)
    images[..., :32] = 200.0
    changed = augment(images)
    assert changed.min() >= 0 and changed.max() <= 255
    assert (changed[..., :32].mean((1, 2, 3)) > changed[..., 32:].mean((1, 2, 3))).all()


def test_the_losses_fall(materials: Materials) -> None:
    torch.manual_seed(0)
    module = Pretraining(create_clip(SHAPES_CLIP, None), materials, lr=1e-3, steps=50)
    parts: list[float] = []
    module.log_dict = lambda losses, **_: parts.append(float(losses["attributes"]))  # type: ignore[method-assign]
    optimizer = torch.optim.Adam(module.parameters(), 3e-4)
    for _ in range(12):
        loss = module.training_step(torch.arange(24), 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert np.mean(parts[-3:]) < 0.9 * parts[0]

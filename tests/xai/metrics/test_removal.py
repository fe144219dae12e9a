import torch

from xai.metrics.removal import blank, drop, filler


def test_drop_keeps_the_order_of_what_stays() -> None:
    tokens = torch.arange(10).reshape(2, 5, 1)
    keep = torch.tensor([[True, False, True, False, True], [False, True, True, True, False]])
    assert drop(tokens, keep, 3)[..., 0].tolist() == [[0, 2, 4], [6, 7, 8]]
    assert drop(tokens[..., 0], keep, 3).tolist() == [[0, 2, 4], [6, 7, 8]]
    assert drop(tokens, torch.zeros(2, 5, dtype=torch.bool), 0).shape == (2, 0, 1)


def test_blank_fills_the_patches_that_are_not_kept() -> None:
    images = torch.rand(1, 3, 4, 6) + 1
    keep = torch.tensor([[True, False, True, False, True, True]])
    found = blank(images, filler(images, "zero"), keep, (2, 3))
    gone = torch.zeros(4, 6, dtype=torch.bool)
    gone[:2, 2:4] = True
    gone[2:, :2] = True
    assert torch.equal(found == 0, gone.expand(1, 3, 4, 6))
    assert torch.equal(found[:, :, ~gone], images[:, :, ~gone])


def test_pixels_are_patches_of_one_pixel() -> None:
    images = torch.rand(2, 3, 3, 3) + 1
    keep = torch.rand(2, 9) > 0.5
    found = blank(images, filler(images, "zero"), keep, (3, 3))
    assert torch.equal(found[:, 0] != 0, keep.reshape(2, 3, 3))


def test_the_mean_is_the_images_own() -> None:
    images = torch.rand(2, 3, 8, 8)
    found = filler(images, "mean")
    assert found.shape == images.shape
    assert torch.allclose(found[1, 2], images[1, 2].mean().expand(8, 8))


def test_blur_is_a_gaussian() -> None:
    assert torch.allclose(filler(torch.full((1, 3, 32, 20), 0.7), "blur"), torch.tensor(0.7))
    dot = torch.zeros(1, 2, 64, 64)
    dot[0, 1, 30, 20] = 1
    found = filler(dot, "blur")
    assert not found[0, 0].any()
    distance = (torch.arange(64)[:, None] - 30) ** 2 + (torch.arange(64)[None] - 20) ** 2
    expected = (-distance / (2 * 4**2)).exp() / (2 * torch.pi * 4**2)
    assert (found[0, 1] - expected).abs().max() < 2e-4 * expected.max() + 2e-5

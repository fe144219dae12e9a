"""Real weights, a DINOv2 ViT-S/14 read from ONNX: it computes what its file does, and relevance is on the subject."""

import pytest
import torch
from torch import Tensor

from benchmarks.real import PATCH, PICTURES, SIDE, Focus, class_token, explained, picture
from xai import Relevance, adapter_for, explain_recording, record

BOXES = {  # by hand, in pixels of 224 x 224: left, top, right, bottom
    "astronaut": (10, 5, 160, 224),
    "chelsea": (0, 0, 160, 224),
    "coffee": (60, 30, 200, 200),
}
METHODS = ("raw_attention", "genatt", "grad_eclip", "tokentm", "partial_lrp", "transatt", "attn_lrp")
OF_THE_HEAD = ("raw_attention", "genatt", "grad_eclip", "tokentm", "attcat")  # no rule for its transposed convolutions
ABOVE = 1.15  # times the share of the area
RANDOM = 20


@pytest.fixture(scope="module")
def inputs(focus: Focus) -> dict[str, Tensor]:
    return focus.inputs([picture(name) for name in PICTURES])


def covered(box: tuple[int, int, int, int]) -> Tensor:
    """How much of each patch is in the box, 0 to 1."""
    left, top, right, bottom = box
    pixels = torch.zeros(SIDE, SIDE)
    pixels[top:bottom, left:right] = 1
    return pixels.unflatten(0, (-1, PATCH)).unflatten(-1, (-1, PATCH)).mean(dim=(1, 3))


def above_its_area(maps: Tensor) -> list[float]:
    """The share of the positive relevance that is on the subject, over its share of the area; picture by picture."""
    positive, subjects = maps.clamp(min=0), torch.stack([covered(BOXES[name]) for name in PICTURES])
    shares = (positive * subjects).sum(dim=(1, 2)) / positive.sum(dim=(1, 2))
    return (shares / subjects.mean(dim=(1, 2))).tolist()


def test_the_weights_compute_what_the_file_does(focus: Focus, inputs: dict[str, Tensor]) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(focus.path), providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {"input_image": inputs["pixel_values"].numpy()})
    with torch.no_grad():
        ours = focus.heat(focus.model(**inputs))
    torch.testing.assert_close(ours, torch.from_numpy(theirs)[:, 0], atol=2e-5, rtol=0)
    assert (
        ours.amax(dim=(1, 2)).min() > 0.9 and ours.amin(dim=(1, 2)).max() < 0.3
    )  # something is found, and not everywhere


@pytest.fixture(scope="module")
def relevances(focus: Focus, inputs: dict[str, Tensor]) -> dict[str, Relevance]:
    return explained(focus.model, inputs, class_token(), METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_the_class_token_is_about_the_subject(relevances: dict[str, Relevance], method: str) -> None:
    found = above_its_area(relevances[method].map("image"))
    assert min(found) >= ABOVE, found


@pytest.fixture(scope="module")
def of_the_head(focus: Focus, inputs: dict[str, Tensor]) -> dict[str, Relevance]:
    with record(focus.model, adapter_for(focus.model)) as recorder:
        focus.model(**inputs)
    target = focus.peak()
    return {method: explain_recording(recorder.recording, method, target) for method in OF_THE_HEAD}


@pytest.mark.parametrize("method", OF_THE_HEAD)
def test_what_the_head_finds_is_explained_by_the_subject(of_the_head: dict[str, Relevance], method: str) -> None:
    found = above_its_area(of_the_head[method].map("image"))
    assert min(found) >= ABOVE, found


def test_random_maps_do_not_meet_the_expectation(focus: Focus, inputs: dict[str, Tensor]) -> None:
    with record(focus.model, adapter_for(focus.model)) as recorder:
        focus.model(**inputs)
    for seed in range(RANDOM):
        relevance = explain_recording(recorder.recording, "random", class_token(), seed=seed)
        assert max(above_its_area(relevance.map("image"))) < ABOVE, seed

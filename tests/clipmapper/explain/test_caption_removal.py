"""Captions of images without patches, against a loop that cuts the patches out by hand."""

import pytest
import torch
from torch import Tensor

from clipmapper.config import DecodingConfig
from clipmapper.data.shapes.render import render
from clipmapper.data.shapes.scene import Scene, Thing
from clipmapper.explain.caption_removal import FIGURES, CaptionScorer, dropping, predictor
from clipmapper.explain.weights import Cider
from clipmapper.metrics.captions import clip_scores, embed_images
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.models.decoding import write
from xai.metrics.perturbation import perturb

REFERENCES = [["a red square and a blue star", "two stars"], ["a small red star"]]
THINGS = (
    Thing("square", "red", "large", 32, 32, 28, 0.0, (255, 0, 0)),
    Thing("star", "blue", "large", 32, 96, 28, 0.0, (0, 0, 255)),
    Thing("star", "red", "small", 100, 64, 14, 0.0, (255, 0, 0)),
)
PICTURES = [
    render(Scene(things, "plain", (colour, colour), False, 0))
    for things, colour in ((THINGS, (0, 0, 0)), (THINGS[1:], (0, 0, 90)))
]


@pytest.fixture(scope="module")
def captioner() -> CLIPMapper:
    return CLIPMapper.from_pretrained("shapes-b-caption")


def test_removing_equals_a_loop(captioner: CLIPMapper) -> None:
    model, protocol = captioner, dropping("wra")
    pixels = torch.stack([model.clip.pixels(picture) for picture in PICTURES])
    original = write(model, model.clip.image_tokens(pixels), DecodingConfig())
    relevance = torch.arange(65.0).expand(1, 2, 65) * torch.tensor([1.0, -1])[:, None]
    removable = torch.ones(2, 65, dtype=torch.bool).index_fill(1, torch.tensor(0), False)
    predict = predictor(model, pixels, original.tokens, CaptionScorer(model.clip, PICTURES, REFERENCES), [0, 1])
    figures = perturb(relevance, removable, torch.tensor([0, 1]), predict, protocol)
    assert figures["log_probability"].shape == (1, 2, 2, len(protocol.shares))
    visual, images = model.clip.model.visual, embed_images(model.clip, PICTURES)
    for direction, row, step in ((0, 0, 0), (0, 0, 5), (1, 1, 6), (0, 1, 8)):
        count = int((1 - protocol.shares[step]) * 64)
        last_go = (direction == 0) == (row == 0)  # the most relevant patches of row 0 are the last ones
        patches = range(1, 1 + count) if last_go else range(65 - count, 65)
        with torch.no_grad():
            embedded = visual._embeds(pixels[row : row + 1])[:, [0, *patches]]
            left = visual.ln_post(visual.transformer(embedded))
            text = model.text_of(write(model, left, DecodingConfig()).tokens[0])
            likely = teacher_forced(model, left, original.tokens[row]) - float(original.log_probability[row])
        score = clip_scores(model.clip, images[row : row + 1], [text], [REFERENCES[row]]).corpus["RefCLIPScore"]
        cider = float(Cider(REFERENCES)([text], [row])[0])
        for name, value in zip(FIGURES, (score, cider, likely), strict=True):
            assert figures[name][0, direction, row, step].item() == pytest.approx(value, abs=2e-3), (name, text)
    assert (figures["log_probability"][..., 0].abs() < 1e-3).all() and (figures["log_probability"][..., 8] < -1).all()


def teacher_forced(model: CLIPMapper, image: Tensor, caption: list[int]) -> float:
    """One token after the other, each by the logits after all before it."""
    total, tokens = 0.0, [model.start]
    for token in [*caption, model.end]:
        ids = model.token_ids[torch.tensor([tokens])]
        logits = model(image, ids, torch.ones_like(ids, dtype=torch.bool))[0, -1]
        total += float(logits.log_softmax(dim=0)[token])
        tokens.append(token)
    return total

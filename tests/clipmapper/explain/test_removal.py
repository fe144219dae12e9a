"""Perturbed inputs against plain computations that encode every one alone, with masks and pixels as the operators say."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from clipmapper.config import ModelConfig
from clipmapper.explain.removal import BLANK, Inputs, predictor
from clipmapper.metrics.answers import soft_accuracy
from clipmapper.models.clip import SHAPES_CLIP
from clipmapper.models.clip_mapper import CLIPMapper
from xai.metrics.perturbation import Perturbed
from xai.metrics.protocols import Protocol, Removal
from xai.metrics.removal import blank, filler

QUESTIONS = ["What color is the hexagon?", "Is it red?"]
WORDS = (9, 6)  # tokens, with start and end
PATCHES = 65
ANSWERS = ["yes", "no", "red", "2", "blue"]
TARGET = torch.tensor([1, 3])
INPUTS = 6


def make(mapper: str, read: str) -> CLIPMapper:
    torch.manual_seed(0)
    config = ModelConfig(clip=SHAPES_CLIP, pretrained=None, width=16, heads=2, layers=2, mapper=mapper, read=read)
    model = CLIPMapper(config, ANSWERS).eval().double()
    for linear in (model.head[1], model.head[4]):
        torch.nn.init.normal_(linear.weight, std=0.2)  # so that what is removed changes the answer
    return model


@pytest.fixture(scope="module", params=[("a", "image"), ("b", "image"), ("b", "text")], ids=str)
def model(request: pytest.FixtureRequest) -> CLIPMapper:
    return make(*request.param)


@pytest.fixture(scope="module")
def inputs(model: CLIPMapper) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 3, 64, 64, generator=generator, dtype=torch.float64)
    return Inputs(
        pixels,
        *model.clip.tokenize(QUESTIONS),
        scores=torch.rand(2, len(ANSWERS), generator=generator, dtype=torch.float64),
    )


def removed(modality: str) -> Perturbed:
    """Inputs in which as many tokens of both samples are kept, special ones among them."""
    generator = torch.Generator().manual_seed(1)
    tokens, length = (PATCHES, 20) if modality == "image" else (max(WORDS), 4)
    rows = torch.arange(INPUTS) % 2
    score = torch.rand(INPUTS, tokens, generator=generator)
    score[:, 0] = 2  # class or start token
    if modality == "text":
        ends = torch.tensor(WORDS)[rows] - 1
        score[torch.arange(INPUTS), ends] = 2
        score[torch.arange(tokens) > ends[:, None]] = -1
    return Perturbed(rows, score.argsort(1, descending=True).argsort(1) < length, length)


def attend(keep: Tensor, causal: bool = False) -> Tensor:
    """What is added to the scores of all queries: -inf at keys that are not kept."""
    mask = torch.zeros(len(keep), len(keep), dtype=torch.float64).masked_fill(~keep, -torch.inf)
    return mask + torch.full_like(mask, -torch.inf).triu(1) if causal else mask


def mapped(model: CLIPMapper, image: Tensor, text: Tensor, seen: Tensor, read: Tensor) -> Tensor:
    """The mapper with the image tokens `seen` and the words `read` as the only keys."""
    image, text = model.image_projection(image), model.text_projection(text)
    for block in model.mapper.blocks:
        if model.config.mapper == "a":
            x = block(torch.cat([image, text], dim=1), torch.cat([seen, read])[None, None, None])
            image, text = x[:, : len(seen)], x[:, len(seen) :]
        else:
            i, t = seen[None, None, None], read[None, None, None]
            image, text = block.image.attend_self(image, i), block.text.attend_self(text, t)
            contexts = block.image.cross_norm(image), block.text.cross_norm(text)
            image, text = block.image.attend_cross(image, contexts[1], t), block.text.attend_cross(text, contexts[0], i)
    return model.head(image[:, 0] if model.config.read == "image" else text[:, len(read) - 1])


@contextmanager
def embedded(model: CLIPMapper, keep: Tensor, value: Tensor | float) -> Iterator[None]:
    """Words that are not kept are embedded as `value`."""
    embedding = model.clip.model.token_embedding
    hook = embedding.register_forward_hook(lambda m, args, out: out.where(keep[:, None], value))
    yield
    hook.remove()


def image_alone(model: CLIPMapper, pixels: Tensor, ids: Tensor, keep: Tensor, removal: Removal) -> Tensor:
    visual, clip, mask = model.clip.model.visual, model.clip, torch.ones_like(ids, dtype=torch.bool)
    if removal in ("drop", "attention_mask"):
        patches = visual.conv1(pixels).flatten(2).mT
        x = torch.cat([visual.class_embedding.expand(1, 1, -1), patches], dim=1) + visual.positional_embedding
        x = x[:, keep] if removal == "drop" else x
        x, seen = visual.ln_pre(x), None if removal == "drop" else attend(keep)
        for block in visual.transformer.resblocks:
            x = block(x, attn_mask=seen)
        x = visual.ln_post(x)
        if removal == "drop":
            return model(x, ids, mask)
        return mapped(model, x, clip.text_tokens(ids), keep, mask[0])
    mean, std = (torch.tensor(clip.preprocess_config[name]).double()[:, None, None] for name in ("mean", "std"))
    shown = {
        "mean": pixels.mean(dim=(2, 3), keepdim=True).expand_as(pixels),
        "zero": (-mean / std).expand_as(pixels),  # black
        "blur": filler(pixels, "blur"),  # linear, so that normalising first is the same
        "mask_token": torch.zeros_like(pixels),
    }[removal]
    return model(clip.image_tokens(blank(pixels, shown, keep[None, 1:], clip.grid)), ids, mask)


def text_alone(model: CLIPMapper, pixels: Tensor, ids: Tensor, keep: Tensor, removal: Removal) -> Tensor:
    image, every = model.clip.image_tokens(pixels), torch.ones_like(ids, dtype=torch.bool)
    if removal == "drop":
        return model(image, ids[:, keep], every[:, keep])
    if removal == "mask_token":
        return model(image, ids.where(keep, model.clip.tokenizer.encode(BLANK)[0]), every)
    if removal in ("mean", "zero"):
        weight = model.clip.model.token_embedding.weight
        with embedded(model, keep, weight.mean(0) if removal == "mean" else torch.zeros_like(weight[0])):
            return model(image, ids, every)
    tower, length = model.clip.model, ids.shape[1]
    x = tower.token_embedding(ids) + tower.positional_embedding[:length]
    x = tower.ln_final(tower.transformer(x, attn_mask=attend(keep, causal=True)))
    return mapped(model, image, x, torch.ones(PATCHES, dtype=torch.bool), keep)


@pytest.mark.parametrize(
    ("modality", "removal"),
    [("image", name) for name in ("drop", "attention_mask", "mask_token", "mean", "zero", "blur")]
    + [("text", name) for name in ("drop", "attention_mask", "mask_token", "mean", "zero")],
)
def test_each_input_is_as_if_it_were_encoded_alone(
    model: CLIPMapper, inputs: Inputs, modality: str, removal: Removal
) -> None:
    batch, alone = removed(modality), {"image": image_alone, "text": text_alone}[modality]
    found = predictor(model, inputs, TARGET, Protocol("wra", removal, modality))(batch)
    expected = []
    for b, keep in zip(batch.rows.tolist(), batch.keep, strict=True):
        own = keep[: WORDS[b]] if modality == "text" else keep
        expected.append(alone(model, inputs.pixels[[b]], inputs.ids[[b], : WORDS[b]], own, removal).detach())
    logits = torch.cat(expected)
    probability = logits.sigmoid().gather(1, TARGET[batch.rows, None])[:, 0]
    assert len(probability.round(decimals=5).unique()) > 4, "it matters which tokens are removed"
    torch.testing.assert_close(found["probability"], probability)
    torch.testing.assert_close(found["accuracy"], soft_accuracy(logits, inputs.scores[batch.rows]))


@pytest.mark.parametrize("modality", ["image", "text"])
@pytest.mark.parametrize("removal", ["drop", "attention_mask", "mask_token", "mean", "zero"])
def test_all_kept_is_the_models_own_answer(model: CLIPMapper, inputs: Inputs, modality: str, removal: Removal) -> None:
    with torch.no_grad():
        logits = model(model.clip.image_tokens(inputs.pixels), inputs.ids, inputs.mask)
    mask = inputs.mask if modality == "text" else torch.ones(2, PATCHES, dtype=torch.bool)
    predict = predictor(model, inputs, TARGET, Protocol("wra", removal, modality))
    for b in range(2):
        found = predict(Perturbed(torch.tensor([b]), mask[[b]], int(mask[b].sum())))
        torch.testing.assert_close(found["probability"][0], logits[b, TARGET[b]].sigmoid())
        torch.testing.assert_close(found["accuracy"][0], inputs.scores[b, logits[b].argmax()])


@pytest.mark.parametrize("modality", ["image", "text"])
def test_dropping_shortens_the_sequence_and_spares_the_other_tower(
    model: CLIPMapper, inputs: Inputs, modality: str
) -> None:
    lengths: list[tuple[str, int]] = []
    predict = predictor(model, inputs, TARGET, Protocol("wra", "drop", modality))
    towers = {"image": model.clip.model.visual.transformer, "text": model.clip.model.transformer}
    hooks = [
        tower.register_forward_hook(lambda m, args, out, name=name: lengths.append((name, out.shape[1])))
        for name, tower in towers.items()
    ]
    predict(removed(modality))
    for hook in hooks:
        hook.remove()
    assert lengths == [(modality, removed(modality).length)]


def test_removals_a_modality_does_not_have_are_named(model: CLIPMapper, inputs: Inputs) -> None:
    with pytest.raises(ValueError, match="removal of words 'blur'"):
        predictor(model, inputs, TARGET, Protocol("wra", "blur", "text"))

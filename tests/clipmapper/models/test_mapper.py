"""Both mappers against a slow literal re-derivation, sample by sample, head by head, without any padding."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from clipmapper.config import ModelConfig
from clipmapper.models.clip import SHAPES_CLIP
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.models.mapper import DEFAULT_LAYERS, MAPPERS, Attention, Branch, MapperA, MapperB, Modality

WIDTH, HEADS, LAYERS = 12, 3, 2
LENGTHS = (5, 2, 4)  # real text tokens of the three samples


@pytest.fixture(params=["a", "b"])
def mapper(request: pytest.FixtureRequest) -> MapperA | MapperB:
    return make(request.param)


def make(name: str) -> MapperA | MapperB:
    torch.manual_seed(3)
    mapper = MAPPERS[name](WIDTH, LAYERS, HEADS, 0.0).double()
    for parameter in mapper.parameters():  # norms and biases start at values that would hide their absence
        nn.init.normal_(parameter, std=0.4)
    return mapper


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    image = torch.randn(3, 7, WIDTH, generator=generator, dtype=torch.float64)
    text = torch.randn(3, max(LENGTHS), WIDTH, generator=generator, dtype=torch.float64)
    return image, text, torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]


def slow_norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    rows = [(row - row.mean()) / ((row - row.mean()).square().mean() + layer.eps).sqrt() for row in x]
    return torch.stack(rows) * layer.weight + layer.bias


def slow_attention(layer: Attention, x: Tensor, context: Tensor) -> Tensor:
    """Queries of `x` [Q, D] over keys and values of `context` [K, D]."""
    d = WIDTH // HEADS
    q = x @ layer.query.weight.T + layer.query.bias
    k = context @ layer.key_value.weight[:WIDTH].T + layer.key_value.bias[:WIDTH]
    v = context @ layer.key_value.weight[WIDTH:].T + layer.key_value.bias[WIDTH:]
    out = torch.zeros(len(x), WIDTH, dtype=x.dtype)
    for head in range(HEADS):
        part = slice(head * d, (head + 1) * d)
        for i in range(len(x)):
            scores = torch.stack([q[i, part] @ k[j, part] / math.sqrt(d) for j in range(len(context))])
            weights = scores.exp() / scores.exp().sum()
            out[i, part] = sum(weights[j] * v[j, part] for j in range(len(context)))
    return out @ layer.output.weight.T + layer.output.bias


def slow_forward(layer: nn.Sequential, x: Tensor) -> Tensor:
    hidden = x @ layer[0].weight.T + layer[0].bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return hidden @ layer[2].weight.T + layer[2].bias


def slow_a(mapper: MapperA, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    x = torch.cat([image, text])
    for block in mapper.blocks:
        y = slow_norm(block.norm, x)
        x = x + slow_attention(block.attention, y, y)
        x = x + slow_forward(block.feed_forward, slow_norm(block.forward_norm, x))
    return x[: len(image)], x[len(image) :]


def slow_b(mapper: MapperB, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    def self_attended(branch: Branch, x: Tensor) -> Tensor:
        y = slow_norm(branch.norm, x)
        return x + slow_attention(branch.attention, y, y)

    for block in mapper.blocks:
        image, text = self_attended(block.image, image), self_attended(block.text, text)
        # Both read the states from before the exchange.
        seen_image, seen_text = slow_norm(block.image.cross_norm, image), slow_norm(block.text.cross_norm, text)
        image = image + slow_attention(block.image.cross_attention, seen_image, seen_text)
        text = text + slow_attention(block.text.cross_attention, seen_text, seen_image)
        image = image + slow_forward(block.image.feed_forward, slow_norm(block.image.forward_norm, image))
        text = text + slow_forward(block.text.feed_forward, slow_norm(block.text.forward_norm, text))
    return image, text


def test_agrees_with_the_literal_computation(mapper: MapperA | MapperB) -> None:
    image, text, mask = inputs()
    out_image, out_text = mapper(image, text, mask)
    for i, length in enumerate(LENGTHS):
        if isinstance(mapper, MapperA):
            expected_image, expected_text = slow_a(mapper, image[i], text[i, :length])
        else:
            expected_image, expected_text = slow_b(mapper, image[i], text[i, :length])
        assert torch.allclose(out_image[i], expected_image, atol=1e-8)
        assert torch.allclose(out_text[i, :length], expected_text, atol=1e-8)


def test_one_token_is_that_of_all(mapper: MapperA | MapperB) -> None:
    image, text, mask = inputs()
    rows, samples = torch.tensor([1, 0, 1]), torch.arange(3)
    whole = mapper(image, text, mask)
    for place, modality in enumerate(get_args(Modality)):
        found = mapper(image, text, mask, (modality, rows))
        torch.testing.assert_close(found, whole[place][samples, rows])


def test_padding_has_no_influence(mapper: MapperA | MapperB) -> None:
    image, text, mask = inputs()
    text.requires_grad_()
    out_image, out_text = mapper(image, text, mask)
    (grad,) = torch.autograd.grad(out_image.square().sum() + out_text[mask].square().sum(), text)
    assert (grad[~mask] == 0).all() and (grad[mask] != 0).any(-1).all()

    disturbed = text.detach().clone()
    disturbed[~mask] = 1e3
    other_image, other_text = mapper(image, disturbed, mask)
    assert other_image.equal(out_image) and other_text[mask].equal(out_text[mask])


def test_samples_of_a_batch_are_independent(mapper: MapperA | MapperB) -> None:
    image, text, mask = inputs()
    out_image, out_text = mapper(image, text, mask)
    order = torch.tensor([2, 0, 1])
    permuted_image, permuted_text = mapper(image[order], text[order], mask[order])
    assert torch.allclose(permuted_image, out_image[order]) and torch.allclose(permuted_text, out_text[order])
    for i, length in enumerate(LENGTHS):
        alone_image, alone_text = mapper(image[i : i + 1], text[i : i + 1, :length], mask[i : i + 1, :length])
        assert torch.allclose(alone_image[0], out_image[i]) and torch.allclose(alone_text[0], out_text[i, :length])


def test_text_attends_to_the_image_as_it_was_before_the_image_attended_to_text() -> None:
    mapper = make("b")
    image, text, mask = inputs()
    _, text_before = mapper.blocks[0](image, text, mask[:, None, None])
    with torch.no_grad():  # were the exchange one after the other, the text would see this change
        mapper.blocks[0].image.cross_attention.output.bias += 1
        mapper.blocks[0].image.feed_forward[2].bias += 1
    image_after, text_after = mapper.blocks[0](image, text, mask[:, None, None])
    assert text_after.equal(text_before)
    assert not torch.allclose(image_after, mapper.blocks[0].image.attend_self(image, None))


def test_every_weight_is_used(mapper: MapperA | MapperB) -> None:
    out_image, out_text = mapper(*inputs())
    (out_image.square().sum() + out_text.square().sum()).backward()
    unused = [name for name, p in mapper.named_parameters() if p.grad is None or not p.grad.any()]
    assert unused == []


def test_equal_numbers_of_weights_at_equal_width() -> None:
    width = 64
    counts = {}
    for name, layers in DEFAULT_LAYERS.items():
        mapper = MAPPERS[name](width, layers, 4, 0.0)
        matrices = sum(p.numel() for p in mapper.parameters() if p.ndim == 2)
        assert matrices == 96 * width**2
        counts[name] = sum(p.numel() for p in mapper.parameters())
    assert DEFAULT_LAYERS == {"a": 8, "b": 3}
    assert abs(counts["a"] / counts["b"] - 1) < 0.01


def test_dropout_works_in_training_only(mapper: MapperA | MapperB) -> None:
    mapper = type(mapper)(WIDTH, 1, HEADS, 0.5).double()
    torch.manual_seed(0)
    assert not mapper(*inputs())[0].equal(mapper(*inputs())[0])
    mapper.eval()
    assert mapper(*inputs())[0].equal(mapper(*inputs())[0])


@pytest.mark.parametrize("name", ["a", "b"])
def test_projections_start_as_clips_own(name: str) -> None:
    model = CLIPMapper(ModelConfig(SHAPES_CLIP, None, mapper=name, heads=4, layers=1), ["yes"])  # type: ignore[arg-type]
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    image = model.image_projection(model.clip.image_tokens(pixels))[:, 0]
    assert torch.allclose(image, model.clip.model.encode_image(pixels), atol=1e-5)
    ids, _ = model.clip.tokenize(["a red circle"])
    text = model.text_projection(model.clip.text_tokens(ids))[:, -1]
    assert torch.allclose(text, model.clip.model.encode_text(model.clip.tokenizer(["a red circle"])), atol=1e-5)


def causal(name: str) -> MapperA | MapperB:
    mapper = MAPPERS[name](WIDTH, LAYERS, HEADS, 0.0, causal=True).double()
    mapper.load_state_dict(make(name).state_dict())
    return mapper


@pytest.mark.parametrize("name", ["a", "b"])
def test_causal_mapper_agrees_with_reading_every_beginning_by_itself(name: str) -> None:
    """An image token is as without any text; a text token as the last one of a text that ends with it."""
    mapper = causal(name)
    image, text, mask = inputs()
    out_image, out_text = mapper(image, text, mask)
    bare, _ = mapper(image, text[:, :0], mask[:, :0])
    assert torch.allclose(out_image, bare)
    for t in range(text.shape[1]):
        _, beginning = mapper(image, text[:, : t + 1], mask[:, : t + 1])
        assert torch.allclose(beginning[:, -1], out_text[:, t])


@pytest.mark.parametrize("name", ["a", "b"])
def test_future_words_change_nothing(name: str) -> None:
    mapper = causal(name)
    image, text, mask = inputs()
    text.requires_grad_()
    out_image, out_text = mapper(image, text, mask)
    (grad,) = torch.autograd.grad(
        out_image.square().sum(), text, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    assert not grad.any()
    for t in range(text.shape[1]):
        (grad,) = torch.autograd.grad(out_text[:, t].square().sum(), text, retain_graph=True)
        assert not grad[:, t + 1 :].any() and grad[:, : t + 1].any(-1).all()
        changed = text.detach().clone()
        changed[:, t + 1 :] += 100
        other_image, other_text = mapper(image, changed, mask)
        assert other_image.equal(out_image) and torch.allclose(other_text[:, : t + 1], out_text[:, : t + 1], atol=1e-12)


@pytest.mark.parametrize("name", ["a", "b"])
def test_text_of_a_causal_mapper_reads_the_image(name: str) -> None:
    image, text, mask = inputs()
    image.requires_grad_()
    (grad,) = torch.autograd.grad(causal(name)(image, text, mask)[1][:, 0].square().sum(), image)
    assert grad.any(-1).all()


@pytest.mark.parametrize("name", ["a", "b"])
def test_causal_mapper_has_the_weights_of_the_other(name: str) -> None:
    shapes = [{k: v.shape for k, v in mapper.state_dict().items()} for mapper in (make(name), causal(name))]
    assert shapes[0] == shapes[1]


def test_image_branch_of_a_causal_mapper_reads_itself_instead_of_the_text() -> None:
    mapper = causal("b")
    image, text, mask = inputs()
    block = mapper.blocks[0]
    out, _ = block(image, text, mask[:, None, None])
    attended = block.image.attend_self(image, None)
    for i in range(len(image)):
        seen = slow_norm(block.image.cross_norm, attended[i])
        x = attended[i] + slow_attention(block.image.cross_attention, seen, seen)
        x = x + slow_forward(block.image.feed_forward, slow_norm(block.image.forward_norm, x))
        assert torch.allclose(out[i], x)


@pytest.mark.parametrize("begun", [["image"], ["text"], ["image", "text"]], ids=str)
@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ["a", "b"])
def test_a_modality_may_have_begun_by_itself(name: str, causal: bool, blocks: int, begun: list[Modality]) -> None:
    torch.manual_seed(3)
    mapper = MAPPERS[name](WIDTH, blocks, HEADS, 0.0, causal=causal).double()
    image, text, mask = inputs()
    started = {"image": image, "text": text}
    started |= {modality: mapper.begin(modality, started[modality], mask) for modality in begun}
    rows = mask.sum(dim=1) - 1
    for read in (None, ("image", torch.zeros_like(rows)), ("text", rows)) if not causal else (None,):
        whole = mapper(image, text, mask, read)
        torch.testing.assert_close(mapper(started["image"], started["text"], mask, read, begun), whole)


def test_what_a_modality_begins_with_is_left_out_of_the_first_block_alone() -> None:
    mapper, (image, text, mask) = make("b"), inputs()
    started, calls = mapper.begin("text", text, mask), list[int]()
    for number, block in enumerate(mapper.blocks):
        block.text.attention.register_forward_hook(lambda m, args, out, number=number: calls.append(number))
    mapper(image, started, mask, None, ["text"])
    assert calls == [1]
    assert not torch.allclose(started, text)

"""The methods of CLIP's own space written out from the weights of the towers of transformers and open_clip, vector by vector."""

from math import exp, sqrt
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from xai import adapter_for, record, similarity
from xai.explainers.clip_surgery import clip_surgery
from xai.explainers.head_contributions import contributions, head_contributions
from xai.explainers.maskclip import maskclip
from xai.explainers.sclip import clearclip, sclip
from xai.explainers.text_span import text_span
from xai.recording.recording import Recording

from ..xai.conftest import Family, build

Vector = list[float]
FAMILIES = ("clip", "open_clip", "open_clip, two modules")
TOKENS, HEADS = 5, 2


class Layer(NamedTuple):
    """An image tower's layer: its modules, and the states [B, T, D] that enter it."""

    module: Any
    states: Tensor
    projections: list[tuple[Tensor, Tensor]]  # weight and bias of query, key, value and output
    norms: tuple[Any, Any]


class Clip(NamedTuple):
    recording: Recording
    layers: list[Layer]
    norm: Any
    projection: Tensor  # [D, E]
    image: Tensor  # [B, E], length 1
    text: Tensor
    scale: float

    def embedded(self, state: Tensor) -> Vector:
        """The embedding of one state, before it has length 1."""
        return (self.norm(state) @ self.projection).tolist()

    def similar(self, state: Tensor, sample: int) -> float:
        embedding = self.embedded(state)
        return self.scale * product(embedding, self.text[sample].tolist()) / sqrt(product(embedding, embedding))


def product(x: Vector, y: Vector) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))


def of_transformers(family: Family) -> tuple[list[Layer], Any, Tensor, Tensor, Tensor]:
    model: Any = family.model
    states = model.vision_model(family.inputs["pixel_values"], output_hidden_states=True).hidden_states
    layers = []
    for module, entering in zip(model.vision_model.encoder.layers, states, strict=False):
        own = module.self_attn
        parts = [(part.weight, part.bias) for part in (own.q_proj, own.k_proj, own.v_proj, own.out_proj)]
        layers.append(Layer(module, entering, parts, (module.layer_norm1, module.layer_norm2)))
    out = model(**family.inputs)
    return (
        layers,
        model.vision_model.post_layernorm,
        model.visual_projection.weight.mT,
        out.image_embeds,
        out.text_embeds,
    )


def of_open_clip(family: Family) -> tuple[list[Layer], Any, Tensor, Tensor, Tensor]:
    visual: Any = family.model.visual
    states = visual._embeds(family.inputs["image"])
    layers = []
    for module in visual.transformer.resblocks:
        own = module.attn
        parts = list(zip(own.in_proj_weight.chunk(3), own.in_proj_bias.chunk(3), strict=True))
        parts.append((own.out_proj.weight, own.out_proj.bias))
        layers.append(Layer(module, states, parts, (module.ln_1, module.ln_2)))
        states = module(states)
    image, text, *_ = family.model(**family.inputs)
    return layers, visual.ln_post, visual.proj, image, text


@pytest.fixture(scope="module", params=FAMILIES)
def clip(request: pytest.FixtureRequest) -> Clip:
    family = build(request.param)
    with record(family.model, adapter_for(family.model)) as recorder:
        family.model(**family.inputs)
    with torch.no_grad():
        parts = of_transformers(family) if request.param == "clip" else of_open_clip(family)
        scale: Any = family.model.logit_scale
        return Clip(recorder.recording, *parts, float(scale.exp()))


def vectors(layer: Layer, which: int, sample: int) -> list[list[Vector]]:
    """Queries, keys or values (0, 1, 2) of each head, of each token."""
    weight, bias = layer.projections[which]
    made = layer.norms[0](layer.states[sample]) @ weight.mT + bias
    return [half.tolist() for half in made.chunk(HEADS, dim=-1)]


def softmaxed(values: Vector) -> Vector:
    powers = [exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def attention(asking: list[Vector], asked: list[Vector]) -> list[Vector]:
    """Of one head: row by row, the softmax of the products divided by √d."""
    return [softmaxed([product(q, k) / sqrt(len(q)) for k in asked]) for q in asking]


def mixed(layer: Layer, sample: int, weights: list[list[Vector]]) -> Tensor:
    """What an attention of these weights, by head, gives after its output projection, [T, D]."""
    values, (weight, bias) = vectors(layer, 2, sample), layer.projections[3]
    rows = []
    for token in range(TOKENS):
        joined = []
        for head in range(HEADS):
            for d in range(len(values[head][0])):
                joined.append(sum(weights[head][token][j] * values[head][j][d] for j in range(TOKENS)))
        rows.append([product(row, joined) + b for row, b in zip(weight.tolist(), bias.tolist(), strict=True)])
    return torch.tensor(rows, dtype=torch.float64)


def identity() -> list[list[Vector]]:
    return [[[float(i == j) for j in range(TOKENS)] for i in range(TOKENS)] for _ in range(HEADS)]


def with_itself(layer: Layer, which: int, sample: int) -> list[list[Vector]]:
    return [attention(head, head) for head in vectors(layer, which, sample)]


def added(one: list[list[Vector]], other: list[list[Vector]]) -> list[list[Vector]]:
    return (torch.tensor(one, dtype=torch.float64) + torch.tensor(other, dtype=torch.float64)).tolist()


def expected(clip: Clip, states: Any) -> Tensor:
    """From `states(sample)` [T, D]; the words have 0."""
    scores = torch.zeros(2, clip.recording.mask.shape[1], dtype=torch.float64)
    for sample in range(2):
        for token, state in enumerate(states(sample)):
            scores[sample, token] = clip.similar(state, sample)
    return scores


@torch.no_grad()
def test_maskclip(clip: Clip) -> None:
    found = maskclip(clip.recording, similarity())
    torch.testing.assert_close(found, expected(clip, lambda sample: mixed(clip.layers[-1], sample, identity())))


@torch.no_grad()
def test_sclip(clip: Clip) -> None:
    layer = clip.layers[-1]

    def states(sample: int) -> Tensor:
        weights = added(with_itself(layer, 0, sample), with_itself(layer, 1, sample))
        x = layer.states[sample] + mixed(layer, sample, weights)
        return x + layer.module.mlp(layer.norms[1](x))

    torch.testing.assert_close(sclip(clip.recording, similarity()), expected(clip, states))


@torch.no_grad()
def test_clearclip(clip: Clip) -> None:
    layer = clip.layers[-1]
    states = lambda sample: mixed(layer, sample, with_itself(layer, 0, sample))  # noqa: E731
    torch.testing.assert_close(clearclip(clip.recording, similarity()), expected(clip, states))


def surgery(clip: Clip, last: int) -> Any:
    def states(sample: int) -> Tensor:
        x = clip.layers[-last:][0].states[sample].clone()
        for layer in clip.layers[-last:]:
            x = x + mixed(layer, sample, with_itself(layer, 2, sample))
        layer = clip.layers[-1]
        ordinary = [attention(q, k) for q, k in zip(vectors(layer, 0, sample), vectors(layer, 1, sample), strict=True)]
        own = layer.states[sample] + mixed(layer, sample, ordinary)
        x[0] = (own + layer.module.mlp(layer.norms[1](own)))[0]
        return x

    return states


@torch.no_grad()
@pytest.mark.parametrize("last", [1, 2, 6])
def test_clip_surgery(clip: Clip, last: int) -> None:
    found = clip_surgery(clip.recording, similarity(), last=last)
    torch.testing.assert_close(found, expected(clip, surgery(clip, last)))
    torch.testing.assert_close(found[:, 0], clip.recording.score(similarity()))  # of the class token, as it was


@torch.no_grad()
def test_clip_surgery_against_other_texts(clip: Clip) -> None:
    generator = torch.Generator().manual_seed(5)
    empty, others = torch.randn(8, generator=generator).double(), torch.randn(3, 8, generator=generator).double()

    def unit(x: Vector) -> Vector:
        return [value / sqrt(product(x, x)) for value in x]

    none, many = torch.zeros(2, TOKENS).double(), torch.zeros(2, TOKENS).double()
    for sample in range(2):
        text = clip.text[sample].tolist()
        texts = [text, *(unit(other) for other in others.tolist())]
        weights = softmaxed([2 * product(clip.image[sample].tolist(), each) for each in texts])
        weights = [weight * len(texts) for weight in weights]
        for token, state in enumerate(surgery(clip, 6)(sample)):
            F = unit(clip.embedded(state))
            none[sample, token] = clip.scale * (product(F, text) - product(F, unit(empty.tolist())))
            parts = [[f * t * w for f, t in zip(F, each, strict=True)] for each, w in zip(texts, weights, strict=True)]
            less = [sum(part[d] for part in parts) / len(parts) for d in range(8)]
            many[sample, token] = clip.scale * sum(a - b for a, b in zip(parts[0], less, strict=True))
    recording = clip.recording
    torch.testing.assert_close(clip_surgery(recording, similarity(), empty=empty)[:, :TOKENS], none)
    torch.testing.assert_close(clip_surgery(recording, similarity(), others=others)[:, :TOKENS], many)


@torch.no_grad()
def test_the_parts_of_an_embedding(clip: Clip) -> None:
    """Every entry, from a norm that is linear once its spread is known."""
    parts = contributions(clip.recording)
    last = clip.layers[-1]
    for sample in range(2):
        own = last.module(last.states[sample][None], *([None] if hasattr(last.module, "self_attn") else []))
        final = (own[0] if own.dim() == 3 else own)[0].tolist()
        mean = sum(final) / len(final)
        spread = sqrt(sum((value - mean) ** 2 for value in final) / len(final) + clip.norm.eps)

        def through(part: Vector, spread: float = spread) -> Vector:
            centre = sum(part) / len(part)
            scaled = [(x - centre) * g / spread for x, g in zip(part, clip.norm.weight.tolist(), strict=True)]
            return [product(scaled, column) for column in clip.projection.mT.tolist()]

        for number, layer in enumerate(clip.layers):
            values, weight = vectors(layer, 2, sample), layer.projections[3][0].tolist()
            queries, keys = vectors(layer, 0, sample), vectors(layer, 1, sample)
            for head in range(HEADS):
                A = attention(queries[head], keys[head])[0]
                size = len(values[head][0])
                for token in range(TOKENS):
                    taken = [A[token] * value for value in values[head][token]]
                    written = [product(row[head * size : (head + 1) * size], taken) for row in weight]
                    found = parts.heads[sample, number, head, token].tolist()
                    assert found == pytest.approx(through(written), rel=1e-6, abs=1e-9)
        assert parts.first[sample].tolist() == pytest.approx(through(clip.layers[0].states[sample, 0].tolist()))


@torch.no_grad()
@pytest.mark.parametrize("modality", ["image", "text"])
def test_the_parts_sum_to_the_embedding_and_their_scores_to_the_similarity(clip: Clip, modality: str) -> None:
    parts = contributions(clip.recording, modality)
    whole = parts.embedding
    own, other = (clip.image, clip.text) if modality == "image" else (clip.text, clip.image)
    torch.testing.assert_close(whole / whole.norm(dim=1, keepdim=True), own)
    slope = clip.scale * other / whole.norm(dim=1, keepdim=True)
    rest = (parts.biases + parts.forward).sum(dim=1) + parts.first + parts.norm
    scores = head_contributions(clip.recording, similarity(), last=None)[:, clip.recording.modalities[modality]]
    total = scores.sum(dim=1) + (rest * slope).sum(dim=1)
    torch.testing.assert_close(total, clip.recording.score(similarity()))
    one = head_contributions(clip.recording, similarity(), last=1)[:, clip.recording.modalities[modality]]
    torch.testing.assert_close(one, (parts.heads[:, -1].sum(dim=1) * slope[:, None]).sum(dim=-1))
    if modality == "text":
        assert not scores[1, 5:].any()  # padding


def test_text_span() -> None:
    generator = torch.Generator().manual_seed(3)
    outputs = torch.randn(7, 2, generator=generator).double() @ torch.randn(2, 4, generator=generator).double()
    texts = torch.randn(5, 4, generator=generator).double()
    C = [[x - sum(row[d] for row in outputs.tolist()) / 7 for d, x in enumerate(row)] for row in outputs.tolist()]
    basis: list[Vector] = []  # of the outputs, by Gram and Schmidt
    for row in C:
        left = row
        for axis in basis:
            left = [x - product(row, axis) * a for x, a in zip(left, axis, strict=True)]
        if sqrt(product(left, left)) > 1e-9:
            basis.append([x / sqrt(product(left, left)) for x in left])
    T = [[sum(product(text, axis) * axis[d] for axis in basis) for d in range(4)] for text in texts.tolist()]
    total, order, shares = sum(product(row, row) for row in C), [], []
    for _ in range(2):
        variances = [sum(product(row, text) ** 2 for row in C) if j not in order else -1 for j, text in enumerate(T)]
        best = variances.index(max(variances))
        size = product(T[best], T[best])
        axis = T[best]
        C = [[x - product(row, axis) / size * a for x, a in zip(row, axis, strict=True)] for row in C]
        T = [[x - product(row, axis) / size * a for x, a in zip(row, axis, strict=True)] for row in T]
        order.append(best)
        shares.append(1 - sum(product(row, row) for row in C) / total)
    found = text_span(outputs, texts, 4)  # the outputs have two directions: two texts explain all
    assert found.texts == order and found.explained == pytest.approx(shares) and shares[-1] == pytest.approx(1)

"""LeGrad with the model's own head at every layer, from models run anew with autograd: CLIP's towers and both mappers."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clipmapper.explain.answers import record_answer
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.models.mapper import Attention
from xai import adapter_for, explain_recording, given, record, similarity
from xai.explainers.legrad import legrad

from ..clipmapper.explain.test_answers import make, pixels
from ..xai.conftest import build


def shared(slope: Tensor, A: Tensor, real: Tensor) -> Tensor:
    """Of one sample: what each key gets, entry by entry, from gradients [H, q, k], of real queries."""
    scores = torch.zeros(A.shape[-1]).double()
    for head in range(A.shape[0]):
        for q in range(A.shape[1]):
            for k in range(A.shape[2]):
                if real[q] and A[head, q, k] > 0:
                    scores[k] += max(float(slope[head, q, k]), 0.0) / (A.shape[0] * int(real.sum()))
    return scores


@pytest.mark.parametrize("last", [None, 1])
def test_clip(last: int | None) -> None:
    """The mean of a layer's tokens is compared with the text, and a text's with the image."""
    family = build("clip")
    model, inputs = family.model, family.inputs
    with record(model, adapter_for(model)) as recorder:
        model(**inputs)
    found = legrad(recorder.recording, similarity(), last, heads="own")
    model.set_attn_implementation("eager")
    options = {"output_attentions": True, "output_hidden_states": True}
    out = model(**inputs)
    image = model.vision_model(inputs["pixel_values"], **options)
    text = model.text_model(inputs["input_ids"], **options)
    ends = (inputs["input_ids"] == 39).int().argmax(dim=1).tolist()
    scale, expected = model.logit_scale.exp(), torch.zeros_like(found)
    for sample in range(2):
        pairs = [
            (image, 5, model.vision_model.post_layernorm, model.visual_projection, out.text_embeds, 0),
            (text, ends[sample] + 1, model.text_model.final_layer_norm, model.text_projection, out.image_embeds, 5),
        ]
        for tower, count, norm, projection, other, start in pairs:
            for layer in range(0 if last is None else 1, 2):
                mean = sum(tower.hidden_states[layer + 1][sample, token] for token in range(count)) / count
                embedding = projection(norm(mean))
                score = scale * (embedding @ other[sample].detach()) / embedding.norm()
                A = tower.attentions[layer]
                (slope,) = torch.autograd.grad(score, A, retain_graph=True)
                real = torch.arange(A.shape[-1]) < count
                expected[sample, start : start + A.shape[-1]] += shared(slope[sample], A[sample], real)
    # eager attention of transformers has its softmax in single precision
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def attend(attention: Attention, x: Tensor, context: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """What an attention gives, and its probabilities as a tensor of the graph."""
    q = attention.query(x).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
    k, v = (
        part.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        for part in attention.key_value(context).chunk(2, dim=-1)
    )
    scores = q @ k.mT / q.shape[-1] ** 0.5
    A = (scores if mask is None else scores.masked_fill(~mask[:, None, None], -torch.inf)).softmax(dim=-1)
    return attention.output((A @ v).transpose(1, 2).flatten(2)), A


Pass = list[tuple[Tensor, Tensor, slice]]  # by attention that the read stream has: A, the states after it, its keys


def single_stream(model: Any, image: Tensor, text: Tensor, mask: Tensor) -> Pass:
    x, found = torch.cat([image, text], dim=1), []
    mask = torch.cat([mask.new_ones(image.shape[:2]), mask], dim=1)
    for block in model.mapper.blocks:
        normed = block.norm(x)
        out, A = attend(block.attention, normed, normed, mask)
        x = x + out
        x = x + block.feed_forward(block.forward_norm(x))
        found.append((A, x, slice(0, x.shape[1])))
    return found


def two_streams(model: Any, image: Tensor, text: Tensor, mask: Tensor) -> Pass:
    found = []
    pictures, words = slice(0, image.shape[1]), slice(image.shape[1], image.shape[1] + text.shape[1])
    for block in model.mapper.blocks:
        normed, read = block.image.norm(image), block.text.norm(text)
        out, A = attend(block.image.attention, normed, normed, None)
        image, text = image + out, text + attend(block.text.attention, read, read, mask)[0]
        found.append((A, image, pictures))
        normed, read = block.image.cross_norm(image), block.text.cross_norm(text)
        out, A = attend(block.image.cross_attention, normed, read, mask)
        image, text = image + out, text + attend(block.text.cross_attention, read, normed, None)[0]
        image = image + block.image.feed_forward(block.image.forward_norm(image))
        text = text + block.text.feed_forward(block.text.forward_norm(text))
        found.append((A, image, words))
    return found


@pytest.mark.parametrize("mapper", ["a", "b"])
def test_mappers(mapper: str) -> None:
    """The answer's head on the mean of the tokens in its stream; CLIP's own layers do not count."""
    model: CLIPMapper = make(mapper).double()
    ids, mask = model.clip.tokenize(["is it red?", "how many small red stars?"])
    recording = record_answer(model, pixels(), ids, mask)
    found = legrad(recording, given(1), heads="own")
    image = model.image_states(model.clip.image_tokens(pixels().double()))
    text = model.text_states(model.clip.text_tokens(ids))
    expected, count = torch.zeros_like(found), image.shape[1]
    rows = torch.ones(2, count, dtype=torch.bool)
    rows = torch.cat([rows, mask], dim=1) if mapper == "a" else rows
    layers = (single_stream if mapper == "a" else two_streams)(model, image.detach(), text.detach(), mask)
    for A, states, keys in layers:
        for sample in range(2):
            tokens = states[sample][rows[sample]]
            score: Any = model.head(tokens.sum(dim=0) / len(tokens))[1]
            (slope,) = torch.autograd.grad(score, A, retain_graph=True)
            counted = slope[sample].clamp(min=0) * (A[sample] > 0) * rows[sample][None, :, None]
            expected[sample, keys] += counted.sum(dim=(0, 1)) / (A.shape[1] * len(tokens))
    torch.testing.assert_close(found, expected)
    assert found[:, :count].any() and found[:, count:].any()
    differs = F.cosine_similarity(found, legrad(recording, given(1)), dim=1)
    assert (differs < 0.99).all()


def test_unknown_heads_are_refused() -> None:
    family = build("vit")
    with record(family.model, adapter_for(family.model)) as recorder:
        family.model(**family.inputs)
    with pytest.raises(ValueError, match=r'last norm and head of this model are not known.*leave it "final"'):
        explain_recording(recorder.recording, "legrad", family.target, heads="own")
    with pytest.raises(ValueError, match='heads is \'each\'; give "final" or "own"'):
        explain_recording(recorder.recording, "legrad", family.target, heads="each")

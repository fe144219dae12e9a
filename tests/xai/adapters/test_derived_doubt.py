"""Models built to mislead: what is found from them is right, or refused with the module's name."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import transformers as tf
from torch import Tensor, nn

from xai import explain, explain_recording, given, record
from xai.adapters.derived import derived
from xai.recording.recording import Recording

WIDTH = 8


class Attention(nn.Module):
    """Two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        parts = (self.q(x), *self.kv(x if context is None else context).chunk(2, dim=-1))
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in parts)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Model(nn.Module):
    """Words and an image, [B, 4] each, and what `run` does with them."""

    def __init__(self, run: Callable[["Model", Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.words, self.patches = nn.Embedding(20, WIDTH), nn.Conv2d(3, WIDTH, 4, 4)
        self.position, self.token = nn.Parameter(torch.randn(4, WIDTH)), nn.Parameter(torch.randn(1, 1, WIDTH))
        self.attentions = nn.ModuleList(Attention() for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(4))
        self.ff, self.head, self.alpha = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3), nn.Parameter(torch.tensor(0.7))
        self.down = nn.Conv2d(WIDTH, WIDTH, 2, 2)
        self.run = run

    def forward(self, ids: Tensor, images: Tensor) -> Tensor:
        return self.run(self, self.words(ids) + self.position, self.patches(images).flatten(2).mT + self.position)

    def block(self, number: int, x: Tensor) -> Tensor:
        return x + self.attentions[number](self.norms[number](x))


def two_towers(m: Model, text: Tensor, image: Tensor) -> Tensor:
    """They never meet but in the score."""
    return m.head(m.block(0, text)[:, 0] * m.block(2, m.block(1, image))[:, 0])


def thrown_away(m: Model, text: Tensor, image: Tensor) -> Tensor:
    text = m.block(0, text)
    m.attentions[1](text)
    m.block(2, image)
    return m.head(m.block(3, text)[:, 0])


def scaled_result(m: Model, text: Tensor, image: Tensor) -> Tensor:
    return m.head((text + m.alpha * m.attentions[0](text))[:, 0])


def scaled_state(m: Model, text: Tensor, image: Tensor) -> Tensor:
    return m.head(m.ff(m.alpha * text + m.attentions[0](text))[:, 0])


def equal_lengths(m: Model, text: Tensor, image: Tensor) -> Tensor:
    """Words ask an image of as many tokens."""
    text, image = m.block(0, text), m.block(1, image)
    return m.head((text + m.attentions[2](text, image))[:, 0])


def summed(m: Model, text: Tensor, image: Tensor) -> Tensor:
    """Each word and a patch are one token."""
    return m.head(m.block(0, text + image)[:, 0])


def side_by_side(m: Model, text: Tensor, image: Tensor) -> Tensor:
    x = torch.cat([m.token.expand(len(text), -1, -1), image, text], dim=1)
    return m.head(m.block(1, m.block(0, x))[:, 0])


def pruned(m: Model, text: Tensor, image: Tensor) -> Tensor:
    return m.head(m.block(1, m.block(0, image)[:, :3])[:, 0])


def in_the_stem(m: Model, text: Tensor, image: Tensor) -> Tensor:
    cells = m.down(m.block(0, image).mT.unflatten(-1, (2, 2)).repeat(1, 1, 2, 2))
    return m.head(m.block(1, cells.flatten(2).mT)[:, 0])


def reversed_(m: Model, text: Tensor, image: Tensor) -> Tensor:
    """The patches from the last to the first."""
    return m.head(m.block(0, image.flip(1))[:, 0])


def text_first(m: Model, text: Tensor, image: Tensor) -> Tensor:
    return m.head(m.block(0, torch.cat([text, image], dim=1))[:, 0])


def class_attention(m: Model, text: Tensor, image: Tensor) -> Tensor:
    """A class token reads itself and the patches, twice."""
    token, image = m.token.expand(len(text), -1, -1), m.block(0, image)
    for number in (1, 2):
        token = token + m.attentions[number](token, torch.cat([token, image], dim=1))
    return m.head(token[:, 0])


def class_token_of_the_joined(m: Model, text: Tensor, image: Tensor) -> Tensor:
    """As CaiT's: the query is taken out of the class token and the patches side by side."""
    token, image = m.token.expand(len(text), -1, -1), m.block(0, image)
    for number in (1, 2):
        joined = torch.cat([token, image], dim=1)
        token = token + m.attentions[number](joined[:, :1], joined)
    return m.head(token[:, 0])


def class_attention_to_the_past(m: Model, text: Tensor, image: Tensor) -> Tensor:
    """A class token reads patches that have changed since."""
    token, first = m.token.expand(len(text), -1, -1), m.block(0, image)
    last = m.block(2, first)
    token = token + m.attentions[1](token, torch.cat([token, first], dim=1))
    return m.head(token[:, 0] + last.mean(1))


def two_states(m: Model, text: Tensor, image: Tensor) -> Tensor:
    """The text starts with the patches after one layer, and reads those after the second."""
    first = m.block(0, image)
    x = m.block(2, torch.cat([text, first], dim=1))
    return m.head((x + m.attentions[3](x, m.block(1, first)))[:, 0])


def between(m: Model, text: Tensor, image: Tensor) -> Tensor:
    x = torch.cat([text[:, :2], image, text[:, 2:]], dim=1)
    return m.head(m.block(0, x)[:, 0])


def parallel(m: Model, text: Tensor, image: Tensor) -> Tensor:
    x = m.norms[0](text)
    return m.head((text + (m.ff(x) + m.attentions[0](x)))[:, 0])


def after_the_norm(m: Model, text: Tensor, image: Tensor) -> Tensor:
    return m.head((text + m.norms[0](m.attentions[0](text)))[:, 0])


def in_place(m: Model, text: Tensor, image: Tensor) -> Tensor:
    out = m.attentions[0](text)
    text += out
    return m.head(text[:, 0])


def without_skip(m: Model, text: Tensor, image: Tensor) -> Tensor:
    return m.head(m.attentions[0](text)[:, 0])


def pooled(m: Model, text: Tensor, image: Tensor) -> Tensor:
    """A learned token asks, and nothing skips its attention."""
    return m.head(m.attentions[1](m.token.expand(len(text), -1, -1), m.block(0, image))[:, 0])


def in_windows(m: Model, text: Tensor, image: Tensor) -> Tensor:
    """The columns of the patches' grid are windows."""
    windows = image.unflatten(1, (2, 2)).transpose(1, 2).flatten(0, 1)
    mixed = m.attentions[0](windows).unflatten(0, (-1, 2)).transpose(1, 2).flatten(1, 2)
    return m.head((image + mixed).mean(1))


def put_back_elsewhere(m: Model, text: Tensor, image: Tensor) -> Tensor:
    return m.head((image + m.attentions[0](image.reshape(-1, 2, WIDTH)).reshape(image.shape).flip(1))[:, 0])


def samples_inside_windows(m: Model, text: Tensor, image: Tensor) -> Tensor:
    """The first windows of all samples come first."""
    windows = image.unflatten(1, (2, 2)).transpose(0, 1).flatten(0, 1)
    return m.head((image + m.attentions[0](windows).unflatten(0, (2, -1)).transpose(0, 1).flatten(1, 2))[:, 0])


def overlapping(m: Model, text: Tensor, image: Tensor) -> Tensor:
    windows = torch.stack([image[:, :3], image[:, 1:]], dim=1).flatten(0, 1)
    first, second = m.attentions[0](windows).unflatten(0, (-1, 2)).unbind(1)
    return m.head((image + torch.cat([first[:, :1], second], dim=1))[:, 0])


def half_of_them(m: Model, text: Tensor, image: Tensor) -> Tensor:
    """Two of four patches attend to each other, and nothing is added to the others."""
    return m.head((image + F.pad(m.attentions[0](image[:, :2]), (0, 0, 0, 2)))[:, 0])


def calls_of_their_own(m: Model, text: Tensor, image: Tensor) -> Tensor:
    first, second = (
        F.scaled_dot_product_attention(*[x.unflatten(-1, (2, -1)).transpose(1, 2)] * 3) for x in image.chunk(2, dim=1)
    )
    return m.head((image + m.ff(torch.cat([first, second], dim=2).transpose(1, 2).flatten(2))).mean(1))


def five_axes(m: Model, text: Tensor, image: Tensor) -> Tensor:
    x = image.unflatten(1, (2, 2)).unflatten(-1, (2, -1)).transpose(2, 3)  # windows and heads
    mixed = (x @ x.mT).softmax(-1) @ x
    return m.head((image + mixed.transpose(2, 3).flatten(3).flatten(1, 2))[:, 0])


def talking_heads(m: Model, text: Tensor, image: Tensor) -> Tensor:
    """As CaiT's: the heads' scores are mixed, and so are their probabilities before they weigh values."""
    x = image.unflatten(-1, (2, -1)).transpose(1, 2)
    scores = F.linear((x @ x.mT).movedim(1, -1), m.ff.weight[:2, :2]).movedim(-1, 1)
    heads = F.linear(scores.softmax(-1).movedim(1, -1), m.head.weight[:2, :2]).movedim(-1, 1)
    return m.block(0, image + (heads @ x).transpose(1, 2).flatten(2)).mean(1)


def heads_in_a_convolution(m: Model, text: Tensor, image: Tensor) -> Tensor:
    x = image.unflatten(-1, (2, -1)).transpose(1, 2)
    heads = F.conv2d((x @ x.mT).softmax(-1), m.ff.weight[:2, :2, None, None])
    return m.block(0, image + (heads @ x).transpose(1, 2).flatten(2)).mean(1)


def asked_both_ways(m: Model, text: Tensor, image: Tensor) -> Tensor:
    """As Grounding DINO's: one product of words and patches, of as many, and its transpose."""
    words, patches = (x.unflatten(-1, (2, -1)).transpose(1, 2) for x in (text, image))
    scores = words @ patches.mT
    to_words = (scores.softmax(-1) @ patches).transpose(1, 2).flatten(2)
    to_patches = ((scores.mT - scores.max()).softmax(-1) @ words).transpose(1, 2).flatten(2)
    return m.head((text + to_words)[:, 0] * (image + to_patches)[:, 1])


def chosen(m: Model, text: Tensor, image: Tensor) -> Tensor:
    """The three patches with the largest sums go on."""
    x = m.block(0, image)
    index = x.sum(dim=-1).topk(3, dim=1)[1]
    return m.head(m.block(1, x.gather(dim=1, index=index[..., None].expand(-1, -1, WIDTH)))[:, 0])


def sampled(m: Model, text: Tensor, image: Tensor) -> Tensor:
    x = m.block(0, image)
    points = m.position[:, None, :2].tanh().expand(len(x), -1, -1, -1)
    found = F.grid_sample(x.mT.unflatten(-1, (2, 2)), points, align_corners=False)
    return m.head((x + m.ff(found.flatten(2).mT))[:, 0])


def built(run: Callable[[Model, Tensor, Tensor], Tensor]) -> tuple[Model, dict[str, Tensor]]:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)
    return Model(run).double().eval(), {"ids": torch.randint(20, (2, 4), generator=generator), "images": images}


def found(run: Callable[[Model, Tensor, Tensor], Tensor]) -> tuple[Model, Recording]:
    model, inputs = built(run)
    adapter = derived(model, inputs)
    with record(model, adapter) as recorder:
        output = model(**inputs)
    torch.testing.assert_close(output.detach(), model(**inputs).detach())
    return model, recorder.recording


def lengths(recording: Recording) -> dict[str, int]:
    return {name: where.stop - where.start for name, where in recording.modalities.items()}


def test_towers_that_never_meet_end_together() -> None:
    _, recording = found(two_towers)
    assert lengths(recording) == {"text": 4, "image": 4}
    assert [[event.module for event in layer] for layer in recording.layers] == [
        ["attentions.1"],
        ["attentions.0", "attentions.2"],
    ]


def test_a_result_thrown_away_is_no_event() -> None:
    _, recording = found(thrown_away)
    assert [event.module for event in recording.events] == ["attentions.0", "attentions.3"]
    assert lengths(recording) == {"text": 4}


def test_a_scaled_result_is_what_is_added() -> None:
    model, recording = found(scaled_result)
    (event,) = recording.events
    _, inputs = built(scaled_result)
    text = model.words(inputs["ids"]) + model.position
    torch.testing.assert_close(event.Y.detach(), text.detach())
    torch.testing.assert_close(event.Y_out.detach(), (model.alpha * model.attentions[0](text)).detach())


def test_streams_of_equal_length_are_told_apart() -> None:
    _, recording = found(equal_lengths)
    assert lengths(recording) == {"text": 4, "image": 4} and recording.grids == {"image": (2, 2)}
    cross = recording.events[-1]
    assert (cross.queries, cross.keys) == (recording.modalities["text"], recording.modalities["image"])


def test_two_modalities_and_a_learned_token_in_one_stream() -> None:
    _, recording = found(side_by_side)
    assert lengths(recording) == {"image": 5, "text": 4} and recording.grids == {"image": (2, 2)}
    image = recording.special[0, recording.modalities["image"]]
    assert image.tolist() == [True, False, False, False, False]


def test_the_grid_of_patches_in_another_order_is_row_by_row() -> None:
    model, recording = found(reversed_)
    patches = model.patches(built(reversed_)[1]["images"]).flatten(2).mT + model.position
    torch.testing.assert_close(recording.events[0].Y[:, recording.modalities["image"]], patches)
    assert recording.grids == {"image": (2, 2)} and recording.modalities["image"].tolist() == [3, 2, 1, 0]


def test_an_image_inside_a_text_is_as_beside_it() -> None:
    """Attention without positions does not see the order of tokens."""
    inside, beside = (explain(*built(run), "genatt", given(0)) for run in (between, text_first))
    assert inside.scores.keys() == beside.scores.keys() == {"text", "image"} and inside["image"].grid == (2, 2)
    for modality, scores in beside.scores.items():
        torch.testing.assert_close(inside.scores[modality], scores)


@pytest.mark.parametrize("run", [pruned, in_the_stem])
def test_tokens_made_from_others_hold_what_those_held(run: Callable[[Model, Tensor, Tensor], Tensor]) -> None:
    _, recording = found(run)
    gradients = recording.gradients(given(0))
    A, later = ((gradients[event].A * event.A.detach()).clamp(min=0).mean(dim=1) for event in recording.events)
    R = torch.eye(4, dtype=A.dtype) + A
    start = R[:, :3] if run is pruned else R.mean(dim=1, keepdim=True).expand(-1, 4, -1)  # cells of all four patches
    wanted = start[:, 0] + (later @ start)[:, 0]
    relevance = explain_recording(recording, "genatt", given(0))
    assert list(relevance.scores) == ["image"] and relevance["image"].grid == (2, 2)
    torch.testing.assert_close(relevance.scores["image"], wanted)
    scores = explain_recording(recording, "raw_attention", given(0)).scores["image"]
    raw = recording.events[1].A.detach().mean(dim=1)[:, 0]
    torch.testing.assert_close(
        scores, F.pad(raw, (0, 1)) if run is pruned else raw.sum(1, keepdim=True).expand(-1, 4) / 4
    )


@pytest.mark.parametrize("run", [class_attention, class_token_of_the_joined])
def test_a_class_token_that_reads_itself_and_the_patches(run: Callable[[Model, Tensor, Tensor], Tensor]) -> None:
    _, recording = found(run)
    assert (
        lengths(recording) == {"image": 4, "queries": 1}
        and recording.rows_of(given(0)).tolist() == [[False] * 4 + [True]] * 2
    )
    gradients = recording.gradients(given(0))
    rollout = genatt = torch.eye(5).double().repeat(2, 1, 1)
    for event in recording.events:
        (A,), (slope,) = event.in_graph.A, gradients[event].in_graph.A
        whole = torch.zeros(2, 2, 2, 5, 5).double()  # of A and its gradient
        for n, part in enumerate((A.detach(), slope)):
            if event is recording.events[0]:
                whole[n, :, :, :4, :4] = part
            else:  # its keys are the class token and the patches
                whole[n, :, :, 4:, :4], whole[n, :, :, 4:, 4:] = part[..., 1:], part[..., :1]
        mean = whole[0].mean(dim=1) + torch.eye(5)
        rollout = mean / mean.sum(dim=-1, keepdim=True) @ rollout
        genatt = genatt + whole.prod(dim=0).clamp(min=0).mean(dim=1) @ genatt
    for method, wanted in (("rollout", rollout), ("genatt", genatt)):
        relevance = explain_recording(recording, method, given(0))
        torch.testing.assert_close(relevance.scores["image"], wanted[:, 4, :4])
        torch.testing.assert_close(relevance.scores["queries"], wanted[:, 4, 4:])
    eclip = explain_recording(recording, "grad_eclip", given(0))
    assert eclip.scores["image"].any() and not eclip.scores["queries"].any()  # a token says nothing of itself
    assert recording.events[1].qkv is not None and recording.events[1].qkv.key.shape[-2] == 5


@pytest.mark.parametrize("run", [parallel, after_the_norm])
def test_where_a_result_is_added(run: Callable[[Model, Tensor, Tensor], Tensor]) -> None:
    model, recording = found(run)
    (event,) = recording.events
    _, inputs = built(run)
    text = model.words(inputs["ids"]) + model.position
    wanted = model.attentions[0](model.norms[0](text)) if run is parallel else model.norms[0](model.attentions[0](text))
    torch.testing.assert_close(event.Y.detach(), text.detach())
    torch.testing.assert_close(event.Y_out.detach(), wanted.detach())


@pytest.mark.parametrize("run", [in_windows, calls_of_their_own])
def test_tokens_attend_within_their_window(run: Callable[[Model, Tensor, Tensor], Tensor]) -> None:
    _, recording = found(run)
    (event,) = recording.events
    columns, rows = (
        torch.tensor([[1, 0, 1, 0], [0, 1, 0, 1]] * 2),
        torch.tensor([[1, 1, 0, 0]] * 2 + [[0, 0, 1, 1]] * 2),
    )
    together = (columns if run is in_windows else rows).bool()
    assert event.A[:, :, together].all() and not event.A[:, :, ~together].any()
    assert recording.grids == {"image": (2, 2)} and event.qkv is not None
    query, key = event.qkv.query.detach(), event.qkv.key.detach()
    scores = (query @ key.mT * query.shape[-1] ** -0.5).masked_fill(~together, -torch.inf)
    torch.testing.assert_close(event.A, scores.softmax(-1))


def test_heads_that_are_mixed_weigh_values_together() -> None:
    model, recording = found(talking_heads)
    event = recording.events[0]
    image = model.patches(built(talking_heads)[1]["images"]).flatten(2).mT + model.position
    x = image.unflatten(-1, (2, -1)).transpose(1, 2)
    scores = torch.einsum("gh,bhij->bgij", model.ff.weight[:2, :2], x @ x.mT)
    A = torch.einsum("gh,bhij->bgij", model.head.weight[:2, :2], scores.softmax(-1)).detach().requires_grad_()
    torch.testing.assert_close(event.A.detach(), A.detach())
    output = model.block(0, image + (A @ x).transpose(1, 2).flatten(2)).mean(1)
    (slope,) = torch.autograd.grad(output[:, 2].sum(), A)
    torch.testing.assert_close(recording.gradients(given(2))[event].A, slope)


def test_queries_and_keys_of_a_transposed_product() -> None:
    model, recording = found(asked_both_ways)
    inputs = built(asked_both_ways)[1]
    states = model.words(inputs["ids"]), model.patches(inputs["images"]).flatten(2).mT
    text, image = ((x + model.position).unflatten(-1, (2, -1)).transpose(1, 2) for x in states)
    asking = {"text": text @ image.mT, "image": image @ text.mT}
    assert len(recording.events) == len(asking) and not any(event.is_self for event in recording.events)
    for event in recording.events:
        (name,) = (name for name, where in recording.modalities.items() if where == event.queries)
        torch.testing.assert_close(event.A.detach(), asking.pop(name).softmax(-1).detach())


def test_a_learned_token_that_pools() -> None:
    _, recording = found(pooled)
    assert lengths(recording) == {"image": 4, "queries": 1}
    event = recording.events[-1]
    assert not event.Y.any() and recording.special[0].tolist() == [False] * 4 + [True]
    assert recording.rows_of(given(1)).tolist() == [[False] * 4 + [True]] * 2


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (scaled_state, r"'attentions\.0': nothing is found to which the result of this self-attention is added"),
        (without_skip, r"'attentions\.0': nothing is found to which the result of this self-attention is added"),
        (summed, r"'attentions\.0': its queries are each made of several tokens"),
        (
            class_attention_to_the_past,
            r"'attentions\.1': some of its tokens are those of .*'attentions\.2' at another time",
        ),
        (two_states, r"'attentions\.2': some of its 8 tokens are among those of module 'attentions\.1' too"),
        (in_place, r"a skip connection is added in place"),
        (put_back_elsewhere, r"'attentions\.0': the results of its windows are added to other tokens than those"),
        (samples_inside_windows, r"'attentions\.0': its queries are other tokens in every sample"),
        (overlapping, r"'attentions\.0': its 6 queries, of all its windows, are not the 4 tokens"),
        (half_of_them, r"'attentions\.0': its 2 queries, of all its windows, are not the 4 tokens"),
        (
            heads_in_a_convolution,
            r"call 1 of softmax in module '': its probabilities are mixed with each other .*, and not by a linear map",
        ),
        (
            chosen,
            r"'attentions\.1': its queries are each made of several tokens, .* or chosen by what the model computes",
        ),
        (sampled, r"call 1 of grid_sample in module '': it samples tokens at points, as deformable attention"),
        (five_axes, r"call 1 of softmax in module '': it cannot be told which tokens its queries are"),
    ],
)
def test_in_doubt_it_refuses(run: Callable[[Model, Tensor, Tensor], Tensor], message: str) -> None:
    model, inputs = built(run)
    with pytest.raises(TypeError, match=message) as raised:
        explain(model, inputs, "genatt", given(0))
    assert "docs/how-to-explain-your-own-model.md" in str(raised.value)


def test_cells_of_a_scaled_grid_are_refused() -> None:
    """RT-DETR: its decoder samples a pyramid that is interpolated between attentions."""
    backbone = tf.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 16, 16],
        depths=[1] * 4,
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = tf.RTDetrConfig(
        backbone_config=backbone, encoder_in_channels=[16] * 3, decoder_in_channels=[16] * 3, encoder_hidden_dim=16, d_model=16,
        encoder_ffn_dim=16, decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2, decoder_layers=1,
        num_queries=5, num_denoising=0,
    )  # fmt: skip
    model = tf.RTDetrForObjectDetection(config).eval()
    with pytest.raises(
        TypeError,
        match=r"module 'model\.decoder\.layers\.0\.encoder_attn\.attn': its tokens are cells of a grid that was scaled",
    ):
        explain(model, {"pixel_values": torch.randn(1, 3, 64, 64)}, "genatt", given(0))


def test_scores_that_are_not_understood_are_named() -> None:
    """XLNet: an einsum of tokens that stand on the first axis."""
    model = tf.XLNetForSequenceClassification(
        tf.XLNetConfig(vocab_size=20, d_model=16, n_layer=1, n_head=2, d_inner=16)
    ).eval()
    with pytest.raises(
        TypeError, match=r"call 1 of softmax in module 'transformer\.layer\.0\.rel_attn' weighs values, but"
    ):
        explain(model, {"input_ids": torch.tensor([[3, 4, 5]])}, "genatt", given(0))

"""The explainers from the field since on real models: what the recording shows of them, and running a model again."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients
from torch import Tensor, nn

from xai import (
    EXPLAINERS,
    Adapter,
    Layout,
    Site,
    Target,
    adapter_for,
    detection,
    explain,
    explain_recording,
    given,
    predicted,
    record,
    token,
)
from xai.explainers import states
from xai.explainers.algebra import readout_scores
from xai.explainers.grad_eclip import grad_eclip
from xai.explainers.input_gradient import input_gradient
from xai.explainers.integrated_gradients import gauss_legendre, integrated_gradients
from xai.explainers.similarity import after_attention, similarity
from xai.explainers.smoothgrad import smoothgrad
from xai.explainers.states import embedding, embeddings, gradients, standing, vectors
from xai.explainers.tokentm import tokentm, transformation
from xai.recording.adapter import at
from xai.recording.recording import Recording
from xai.recording.rerun import Rerun
from xai.recording.rows import by_rows
from xai.targets import decided

from ..adapters.stock import built
from ..conftest import FAMILIES, Family, build, few_passes
from ..toys import TWO, adapter_of, blocks, model_of, snapshot, x

FIELD = [
    "legrad",
    "gradient_norm",
    "grad_eclip",
    "attcat",
    "tokentm",
    "input_gradient",
    "integrated_gradients",
    "smoothgrad",
]


def recorded_pass(family: Family, **changed: Any) -> Recording:
    with record(family.model, adapter_for(family.model)) as recorder:
        family.model(**{**family.inputs, **changed})
    return recorder.recording


# queries, keys, values


def test_queries_keys_and_values_are_the_model_s() -> None:
    """∇o_i · v_j over all heads is the sum of ∇A_ij over heads, and x̃ is the value after the projection."""
    family = build("vit")
    caught: dict[str, Tensor] = {}
    layer = family.model.vit.layers[-1].attention
    with record(family.model, adapter_for(family.model)) as recorder:
        for name in ("q_proj", "k_proj", "v_proj"):
            getattr(layer, name).register_forward_hook(lambda m, i, output, name=name: caught.update({name: output}))
        layer.o_proj.register_forward_pre_hook(lambda m, args: caught.update(mixed=args[0]))
        family.model(**family.inputs)
    recording = recorder.recording
    event = recording.events[-1]
    assert event.qkv is not None and event.qkv.projection is layer.o_proj.weight
    for name, tensor in zip(
        ("q_proj", "k_proj", "v_proj"), (event.qkv.query, event.qkv.key, event.qkv.value), strict=True
    ):
        assert torch.equal(tensor.transpose(1, 2).flatten(2), caught[name])
    (slope,) = torch.autograd.grad(recording.score(family.target).sum(), caught["mixed"], retain_graph=True)
    weighed = (slope @ caught["v_proj"].mT).detach()
    torch.testing.assert_close(recording.gradients(family.target)[event].A.sum(1), weighed)
    patches = grad_eclip(recording, family.target, loosened=False)[:, 0, 1:]
    torch.testing.assert_close(patches, weighed[:, 0, 1:].clamp(min=0))
    old, new = event.Y, F.linear(caught["v_proj"], layer.o_proj.weight)
    direction = F.cosine_similarity(old, new, dim=-1).exp()
    expected = new.norm(dim=-1) / old.norm(dim=-1) * direction / direction.mean(1, keepdim=True)
    state = {"image": (event, slice(0, 5))}
    torch.testing.assert_close(transformation(recording, event, state), expected.detach())


@pytest.mark.parametrize("method", ["grad_eclip", "tokentm"])
@pytest.mark.parametrize("name", ["visualbert", "lxmert"])
def test_plain_softmax_is_refused(method: str, name: str) -> None:
    family = build(name)
    with pytest.raises(ValueError, match=r"module '.*self' has its softmax in plain code or samples points.*sdpa"):
        EXPLAINERS[method](recorded_pass(family), family.target)


def test_plain_softmax_will_do_without_likeness() -> None:
    family = build("lxmert")
    scores = explain(family.model, family.inputs, "grad_eclip", family.target, loosened=False).scores
    assert scores["regions"].any()


def test_attention_without_projection_is_refused() -> None:
    model = blocks()
    with record(model, TWO) as recorder:
        model(x())
    assert (
        recorder.recording.events[0].qkv.projection is None
    )  # not the next block's linear map, which comes after a sum
    with pytest.raises(ValueError, match=r"module 'blocks.0' has no linear output projection"):
        tokentm(recorder.recording, lambda output: output[:, 0])


# running again


def test_again_is_the_same_pass(family: Family) -> None:
    recording = recorded_pass(family)
    before = snapshot(family.model)
    assert recording.rerun is not None
    same = recording.rerun(embeddings(recording))
    torch.testing.assert_close(family.target(same.output), recording.score(family.target))
    for name, slope in same.gradients(family.target)[1].items():
        torch.testing.assert_close(slope, gradients(recording, family.target)[name])
    assert snapshot(family.model) == before


def test_again_with_other_embeddings(family: Family) -> None:
    """Also past the first layer's skip connection: with the second sample's embeddings the first is answered like it."""
    for name in family.inputs:
        if "mask" in name:
            family.inputs[name] = torch.ones_like(family.inputs[name])
    of_clip = family.target.name == "similarity"  # reads its text where the words themselves end: those stay
    changing = {name: tensor for name, tensor in family.inputs.items() if tensor.is_floating_point() or not of_clip}
    recording, other = (
        recorded_pass(family),
        recorded_pass(family, **{name: t[1:].expand_as(t) for name, t in changing.items()}),
    )
    assert recording.rerun is not None
    moved = family.target(recording.rerun(embeddings(other)).output)
    torch.testing.assert_close(moved, other.score(family.target))
    assert not torch.allclose(moved, recording.score(family.target))


def test_parameters_are_safe_from_other_embeddings() -> None:
    """A learned query of a batch of one is a view of its parameter."""
    inner = blocks()
    model = model_of(lambda y: inner(model.start.expand(len(y), -1, -1)), inner=inner)
    model.start = nn.Parameter(x()[0])
    before = model.start.detach().clone()
    adapter = adapter_of("inner.blocks.0", "inner.blocks.1")
    with record(model, adapter) as recorder:
        model(x()[:1])
    recording = recorder.recording
    assert recording.rerun is not None
    changed = recording.rerun({"x": x()[1:]})
    torch.testing.assert_close(changed.output.detach(), inner(x()[1:]).detach())
    assert torch.equal(model.start, before) and model.start.is_leaf and model.start.requires_grad


class Joining(nn.Module):
    """Words join image tokens that have been through a layer already."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = blocks()

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        first, second = self.inner.blocks
        joint = torch.cat([image + first(image), text], dim=1)
        return self.inner.head((joint + second(joint))[:, 0])


def joining() -> tuple[nn.Module, Adapter]:
    image, joint = ("image",), ("image", "text")

    def layout(inputs: Any, sizes: Any) -> Layout:
        return Layout({"image": 5, "text": 3}, {"image": at(0, 5)}, {})

    names = ("inner.blocks.0", "inner.blocks.1")
    layers = tuple((Site(name, s, s, name, name),) for name, s in zip(names, (image, joint), strict=True))
    return Joining().eval(), Adapter(layers, layout)


def test_words_that_enter_later() -> None:
    model, adapter = joining()
    image, text = x().requires_grad_(), (2 * x()[:, :3]).requires_grad_()
    with record(model, adapter) as recorder:
        model(image, text)
    recording, target = recorder.recording, given(1)
    gradients = torch.autograd.grad(target(model(image, text)).sum(), (image, text))
    expected = [(slope * vectors).sum(-1) for slope, vectors in zip(gradients, (image, text), strict=True)]
    torch.testing.assert_close(input_gradient(recording, target), torch.cat(expected, dim=1).detach())
    assert recording.rerun is not None
    found = recording.rerun({"text": text.flip(0).detach()}).output
    torch.testing.assert_close(found, model(image, text.flip(0)))
    gap = target(model(image, text)) - target(model(0 * image, 0 * text))
    complete = integrated_gradients(recording, target, baseline="zero").sum(1)
    torch.testing.assert_close(complete, gap.detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["lxmert", "clip", "bert"])
def test_changed_states_run_as_one_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family, calls = build(name), list[int]()
    recording = recorded_pass(family)
    family.model.register_forward_hook(lambda *_: calls.append(1))
    together = integrated_gradients(recording, family.target, steps=5)
    assert len(calls) == 1
    monkeypatch.setattr(states, "GRAPHS", 1)
    torch.testing.assert_close(integrated_gradients(recording, family.target, steps=5), together)
    assert len(calls) == 6


@pytest.mark.parametrize(
    "run",
    [
        lambda inner, y: inner(y) if len(y) == 2 else 1 / 0,
        lambda inner, y: inner(y) * torch.arange(1, 1 + len(y))[:, None],
    ],
    ids=["refuses more samples", "tells samples apart by their place"],
)
def test_models_that_take_no_more_samples_run_again_and_again(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = blocks()
    model = model_of(lambda y: run(inner, y), inner=inner)
    with record(model, adapter_of("inner.blocks.0", "inner.blocks.1")) as recorder:
        model(x())
    target = Target("some", lambda output: output[:, 0])
    found = smoothgrad(recorder.recording, target, samples=3)
    monkeypatch.setattr(states, "GRAPHS", 1)
    torch.testing.assert_close(smoothgrad(recorder.recording, target, samples=3), found, rtol=0, atol=0)


def test_a_modality_that_never_asks_has_no_embedding() -> None:
    recording = recorded_pass(build("detr"))
    silent = replace(recording, modalities={**recording.modalities, "other": slice(90, 95)})
    with pytest.raises(ValueError, match="'other' is never the queries"):
        embedding(silent)
    assert recording.rerun is not None
    with pytest.raises(ValueError, match="modality other is never the queries"):
        recording.rerun({"other": torch.zeros(2, 5, 16)})


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_again_for_callers_without_gradients(context: Any) -> None:
    family = build("bert")
    expected = integrated_gradients(recorded_pass(family), family.target, steps=2)
    with context():
        found = integrated_gradients(recorded_pass(family), family.target, steps=2)
    torch.testing.assert_close(found, expected)


def test_again_under_the_autocast_of_the_call() -> None:
    family = build("bert")
    family.model.float()
    with torch.autocast("cpu", torch.bfloat16):
        recording = recorded_pass(family)
    assert recording.rerun is not None
    logits = recording.rerun({}).output.logits
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(
        logits, recording.output.logits, atol=0.03, rtol=0.03
    )  # attention rounds as the model's own


# input gradients


def test_input_gradient_is_autograd_s() -> None:
    family = build("bert")
    words = family.model.bert.embeddings(input_ids=family.inputs["input_ids"]).detach().requires_grad_()
    handle = family.model.bert.embeddings.register_forward_hook(lambda *_: words)
    (slope,) = torch.autograd.grad(family.target(family.model(**family.inputs)).sum(), words)
    handle.remove()
    expected = (slope * words).sum(-1).detach()
    torch.testing.assert_close(input_gradient(recorded_pass(family), family.target), expected)


@pytest.mark.parametrize("steps", [4, 9])
def test_integrated_gradients_are_captum_s(steps: int) -> None:
    family = build("bert")
    words = family.model.bert.embeddings(input_ids=family.inputs["input_ids"]).detach()

    def forward(changed: Tensor) -> Tensor:
        handle = family.model.bert.embeddings.register_forward_hook(lambda *_: changed)
        logits = family.model(**family.inputs).logits
        handle.remove()
        return logits

    start = words.mean(dim=-1, keepdim=True).expand_as(words)
    expected = IntegratedGradients(forward).attribute(
        words, start, torch.tensor([1, 2]), n_steps=steps, method="gausslegendre", internal_batch_size=2
    )
    found = integrated_gradients(recorded_pass(family), family.target, steps, {"text": start})
    torch.testing.assert_close(found, expected.sum(-1))


@pytest.mark.parametrize(
    ("name", "steps", "precision"),
    [("bert", 24, 1e-5), ("vit", 24, 1e-5), ("visualbert", 48, 1e-3), ("lxmert", 48, 1e-2), ("clip", 48, 1e-3)],
)
def test_integrated_gradients_are_complete(name: str, steps: int, precision: float) -> None:
    family = build(name)
    recording = recorded_pass(family)
    start = embeddings(recording)
    for modality, tokens in start.items():
        mask = recording.mask[:, recording.modalities[modality], None]
        start[modality] = ((tokens * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)).expand_as(tokens)
    assert recording.rerun is not None
    gap = (recording.score(family.target) - family.target(recording.rerun(start).output)).detach()
    scores = readout_scores(recording, integrated_gradients(recording, family.target, steps), family.target)
    torch.testing.assert_close(scores.sum(1), gap, atol=precision * float(gap.abs().max()), rtol=0)


AT_LAYERS = [
    ("bert", 1),
    ("vit", 1),
    ("open_clip", 1),
    ("visualbert", 1),
    ("lxmert", 3),
    ("Swin", 3),
    ("LLaVA", 1),
    ("LLaVA", 2),
]


@pytest.mark.parametrize(("name", "layer"), AT_LAYERS)
def test_integrated_gradients_at_a_layer_are_complete(name: str, layer: int) -> None:
    """By the states as they are recorded there, halfway from a baseline near enough that few steps will do."""
    family = build(name) if name in FAMILIES else built(name)
    with record(family.model, adapter_for(family.model, family.inputs)) as recorder:
        family.model(**family.inputs)
    recording = recorder.recording
    x = vectors(standing(recording, layer))
    start = {name: 0.9 * tokens + 0.1 * tokens.roll(1, dims=1) for name, tokens in x.items()}
    assert recording.rerun is not None
    same = recording.rerun(x, layer)
    torch.testing.assert_close(family.target(same.output), recording.score(family.target))
    gradients, slopes = recording.gradients(family.target), same.gradients(family.target)[1]
    for modality, (event, rows) in standing(recording, layer).items():
        torch.testing.assert_close(slopes[modality], gradients[event].Y[:, rows])
    gap = (recording.score(family.target) - family.target(recording.rerun(start, layer).output)).detach()
    assert gap.abs().min() > 1e-4
    found = integrated_gradients(recording, family.target, 8, start, layer).sum(1)
    torch.testing.assert_close(found, gap, atol=1e-6, rtol=1e-4, check_dtype=False)
    assert not torch.allclose(found, integrated_gradients(recording, family.target, 8, layer=0).sum(1))


def test_integrated_gradients_at_a_layer_of_rows_are_those_of_each_target() -> None:
    family = built("LLaVA")
    with record(family.model, adapter_for(family.model, family.inputs)) as recorder:
        family.model(**family.inputs)
    recording, sample = recorder.recording, torch.tensor([0, 1, 1])
    words = Target("words", lambda output: output.logits[sample, -1, torch.tensor([5, 7, 9])])
    found = integrated_gradients(by_rows(recording, sample), words, 2, layer=2)
    for row, label in enumerate((5, 7, 9)):
        alone = Target("word", lambda output, label=label: output.logits[:, -1, label])
        torch.testing.assert_close(found[row], integrated_gradients(recording, alone, 2, layer=2)[sample[row]])


@pytest.mark.parametrize(
    ("name", "layer", "message"),
    [
        ("lxmert", 1, "states of regions are read before their own attention takes them"),
        ("detr", 3, "layer is 3, which comes after the last attention of image"),
        ("bert", 2, "layer is 2; this recording has layers 0 to 1"),
    ],
)
def test_layers_whose_states_cannot_be_changed(name: str, layer: int, message: str) -> None:
    family = build(name)
    with pytest.raises(ValueError, match=message):
        integrated_gradients(recorded_pass(family), family.target, 2, layer=layer)


def test_a_modality_without_baseline_keeps_its_embedding() -> None:
    family = build("lxmert")
    scores = explain(
        family.model,
        family.inputs,
        "integrated_gradients",
        family.target,
        steps=4,
        baseline={"text": torch.zeros(1, 1, 16)},
    ).scores
    assert scores["text"].any() and not scores["regions"].any()


def test_gauss_legendre_integrates_polynomials() -> None:
    for steps in (1, 2, 5):
        nodes, weights = gauss_legendre(steps)
        for power in range(2 * steps):
            assert float((weights * nodes**power).sum()) == pytest.approx(1 / (power + 1))


def test_smoothgrad_is_the_mean_over_its_noise() -> None:
    family = build("lxmert")
    recording, given_noise = recorded_pass(family), []

    def spy(changed: Mapping[str, Tensor], layer: int = 0) -> Rerun:
        copies = [values.split(2) for values in changed.values()]  # and the recorded states at the end
        given_noise.extend(dict(zip(changed, parts, strict=True)) for parts in list(zip(*copies, strict=True))[:-1])
        assert recording.rerun is not None
        return recording.rerun(changed)

    clean = embeddings(recording)
    found = smoothgrad(replace(recording, rerun=spy), family.target, samples=8, noise=0.2, seed=3)
    assert len(given_noise) == 8
    gradients = {name: torch.zeros_like(tokens) for name, tokens in clean.items()}
    for changed in given_noise:
        assert recording.rerun is not None
        run = recording.rerun(changed)
        grads = torch.autograd.grad(family.target(run.output).sum(), [state for state, _ in run.places.values()])
        for (name, (_, rows)), grad in zip(run.places.items(), grads, strict=True):
            gradients[name] += grad[rows] / 8
    expected = torch.cat([(gradients[name] * clean[name]).sum(-1) for name in clean], dim=1)
    torch.testing.assert_close(found, expected)
    noise = {name: torch.stack([changed[name] - clean[name] for changed in given_noise]) for name in clean}
    for name, tokens in clean.items():
        for sample in range(2):
            known = tokens[sample][recording.mask[sample, recording.modalities[name]]]
            deviation = 0.2 * (known.max() - known.min())
            assert float(noise[name][:, sample].std() / deviation) == pytest.approx(1, abs=0.15)
    first = {name: values[:, 0].flatten()[:64] for name, values in noise.items()}
    assert abs(float(torch.corrcoef(torch.stack(list(first.values())))[0, 1])) < 0.4  # streams have their own


def test_smoothgrad_depends_on_the_seed_and_without_noise_is_the_gradient() -> None:
    family = build("bert")
    recording = recorded_pass(family)
    one, same, other = (smoothgrad(recording, family.target, samples=2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.allclose(one, other)
    torch.testing.assert_close(
        smoothgrad(recording, family.target, 1, noise=0), input_gradient(recording, family.target)
    )


@pytest.mark.parametrize("method", ["integrated_gradients", "smoothgrad"])
def test_a_target_keeps_the_class_it_chose(method: str) -> None:
    family = build("bert")
    recording = recorded_pass(family)
    chosen = given(recording.output.logits.argmax(-1))
    found = EXPLAINERS[method](recording, predicted(), 5)
    torch.testing.assert_close(found, EXPLAINERS[method](recording, chosen, 5))


def test_decided_targets() -> None:
    first, second = torch.rand(2, 2, 3, 4).unbind(0)
    rows = torch.arange(2)
    for target, best in ((token(1), first[:, 1].argmax(-1)), (detection(2), first[:, 2, :-1].argmax(-1))):
        fixed = decided(target, first)
        assert fixed.row == target.row
        assert torch.equal(fixed(second), second[rows, target.row[1], best])
        assert torch.equal(fixed(first), target(first))
    assert torch.equal(decided(predicted(), first[:, 0])(second[:, 0]), second[rows, 0, first[:, 0].argmax(-1)])
    plain = lambda output: output  # noqa: E731
    assert decided(plain, first) is plain


# baselines


@pytest.mark.parametrize(
    ("name", "after"), [("vit", "layernorm_after"), ("Swin", "layernorm_after"), ("Llama", "post_attention_layernorm")]
)
def test_similarity_takes_the_states_after_the_last_attention(name: str, after: str) -> None:
    """As the model has them, which goes on with their norm; shifted windows are laid back."""
    family, caught = build(name) if name in FAMILIES else built(name), list[Tensor]()
    for module, inner in family.model.named_modules():
        if module.endswith(after):
            inner.register_forward_pre_hook(lambda m, args: caught.append(args[0].detach()))
    with record(family.model, adapter_for(family.model, family.inputs)) as recorder:
        family.model(**family.inputs)
    recording, state = recorder.recording, caught[-1]
    event = recording.events[-1]
    cosines = F.cosine_similarity(state[:, :, None], state[:, None], dim=-1)
    torch.testing.assert_close(after_attention(event), state)
    found = similarity(replace(recording, links={}), family.target)[:, event.queries, event.keys]
    torch.testing.assert_close(found, cosines, check_dtype=False)


def test_similarity_depends_on_the_row_alone_that_the_target_reads() -> None:
    family = build("bert")
    recording = recorded_pass(family)
    one, other = (explain_recording(recording, "similarity", given(label)).scores["text"] for label in (0, 1))
    assert torch.equal(one, other)
    torch.testing.assert_close(one[:, 0], torch.ones(2).double())


# all of them


@pytest.mark.parametrize("method", FIELD)
@pytest.mark.parametrize("name", ["bert", "clip", "detr"])
def test_permuting_the_batch_permutes_the_result(name: str, method: str) -> None:
    family = build(name)
    flipped = {name: tensor.flip(0) for name, tensor in family.inputs.items()}
    target = {"clip": family.target, "detr": detection(1, 0)}.get(name, predicted())
    expected = explain(family.model, family.inputs, method, target, **few_passes(method)).scores
    found = explain(family.model, flipped, method, target, **few_passes(method)).scores
    for modality in expected:
        torch.testing.assert_close(found[modality].flip(0), expected[modality])


@pytest.mark.parametrize("method", FIELD)
def test_a_target_that_the_model_ignores(method: str) -> None:
    family = build("bert")
    ignoring = lambda output: 0 * output.logits[:, 0]  # noqa: E731
    scores = explain(family.model, family.inputs, method, ignoring, **few_passes(method)).scores["text"]
    assert scores.isfinite().all()
    own = scores[:, :1] if method == "tokentm" else scores[:, :0]  # what TokenTM starts from: the length of the token
    assert torch.equal(scores.abs().sum(1), own.sum(1))


@pytest.mark.parametrize("name", ["bert", "vit", "open_clip"])
def test_methods_differ(name: str) -> None:
    family = build(name)
    recording = recorded_pass(family)
    found = {method: explain_recording(recording, method, family.target).scores for method in EXPLAINERS}
    maps = {method: torch.cat(list(scores.values()), dim=1) for method, scores in found.items()}
    directions = {method: scores / scores.norm(dim=1, keepdim=True) for method, scores in maps.items()}
    names = list(directions)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            if {one, other} == {"shapley", "mm_shap"} and len(recording.inputs) == 1:
                continue  # one modality has one game
            if {one, other} == {"banzhaf", "fixlip"} and len(recording.inputs) == 1:
                continue  # theory: in one game φ_i + ½ Σ_j φ_ij is the Banzhaf value
            same = (directions[one] - directions[other]).abs().amax() < 1e-6
            assert not same, f"{one} and {other} give one map"


@pytest.mark.parametrize("method", ["attcat", "input_gradient", "integrated_gradients", "smoothgrad"])
def test_signed_methods_change_sign_with_the_target(method: str) -> None:
    family = build("bert")
    plus, minus = (
        explain(
            family.model,
            family.inputs,
            method,
            lambda output, sign=sign: sign * output.logits[:, 0],
            **few_passes(method),
        ).scores["text"]
        for sign in (1, -1)
    )
    torch.testing.assert_close(plus, -minus)
    assert (plus < 0).any() and (plus > 0).any()


def test_keys_that_may_not_be_attended_to_count_nothing() -> None:
    """The gradient by a masked entry is not zero: o would change with it."""
    family = build("open_clip")
    recording = recorded_pass(family)
    where = recording.modalities["text"]
    R = grad_eclip(recording, family.target)[:, where, where]
    assert R.any() and not R.triu(1).any()


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("integrated_gradients", {"steps": 0}, "steps is 0"),
        ("integrated_gradients", {"baseline": "grey"}, "baseline is 'grey'"),
        ("integrated_gradients", {"baseline": {"sound": torch.zeros(1)}}, "modality sound; the model has text"),
        ("smoothgrad", {"samples": 0}, "samples is 0"),
        ("grad_eclip", {"last": 0}, "last is 0"),
        ("attcat", {"last": 3}, "last is 3; this recording has 2 layers"),
    ],
)
def test_errors(method: str, options: dict[str, Any], message: str) -> None:
    family = build("bert")
    with pytest.raises(ValueError, match=message):
        explain(family.model, family.inputs, method, family.target, **options)


def test_a_tape_that_cannot_run_again() -> None:
    family = build("bert")
    with pytest.raises(ValueError, match="not made by `record`"):
        smoothgrad(replace(recorded_pass(family), rerun=None), family.target)

"""The reference's names for ViT, BERT, CLIP and VisualBERT, and our explainers with the options that give their numbers.

Overwritten entries (the read-out token's own) and min-max scaling were for display; they are done here.
"""

from collections.abc import Callable, Iterator
from typing import Any

import open_clip.model
import torch
import transformers
from golden import Case, Golden, minmax
from torch import Tensor

from xai import Target, adapter_for, given, record, similarity
from xai.explainers.attention_gradcam import attention_gradcam
from xai.explainers.genatt import genatt
from xai.explainers.input_relevance import full_lrp, pixel_lrp
from xai.explainers.partial_lrp import partial_lrp
from xai.explainers.raw_attention import raw_attention
from xai.explainers.rollout import rollout
from xai.explainers.transatt import transatt
from xai.lrp.positive import TRANSATT
from xai.lrp.relevances import relevances
from xai.recording.event import Event
from xai.recording.recording import Recording, Score

Method = Callable[[Recording, Score], Tensor]  # to a map [B, T, T]


def all_but_first(recording: Recording) -> int:
    return len(recording.layers) - 1


VIT: dict[str, Method] = {
    "last_layer_attn": raw_attention,
    "generate_cam_attn": lambda recording, target: attention_gradcam(recording, target, over="row"),
    "generate_rollout": rollout,
    "generate_rollout_start1": lambda recording, target: rollout(recording, target, last=all_but_first(recording)),
    "genatt": genatt,
}
VIT_LRP: dict[str, Method] = {
    "transformer_attribution": transatt,
    "transformer_attribution_start1": lambda recording, target: transatt(
        recording, target, last=all_but_first(recording)
    ),
    "rollout": lambda recording, target: transatt(recording, target, gradient=False),
    "rollout_start1": lambda recording, target: transatt(
        recording, target, gradient=False, last=all_but_first(recording)
    ),
    "last_layer": lambda recording, target: transatt(recording, target, gradient=False, block=-1),
    "last_layer_ablation": lambda recording, target: transatt(recording, target, block=-1),
    "second_layer": lambda recording, target: transatt(recording, target, gradient=False, block=1),
    "second_layer_ablation": lambda recording, target: transatt(recording, target, block=1),
}
BERT: dict[str, Method] = {
    "generate_attn_last_layer": raw_attention,
    "generate_rollout": rollout,
    "generate_rollout_start1": lambda recording, target: rollout(recording, target, last=all_but_first(recording)),
    "generate_attn_gradcam": lambda recording, target: minmax(attention_gradcam(recording, target), 2),
}
BERT_LRP: dict[str, Method] = {
    "generate_LRP_start0": lambda recording, target: transatt(recording, target, normalise=True),
    "generate_LRP_start1": lambda recording, target: transatt(
        recording, target, normalise=True, last=all_but_first(recording)
    ),
    "generate_LRP_last": lambda recording, target: transatt(recording, target, normalise=True, last=1),
    "generate_LRP_last_layer": lambda recording, target: transatt(recording, target, gradient=False, block=-1),
}
VISUALBERT: dict[str, Method] = {
    "ours_no_lrp": genatt,
    "rollout": lambda recording, target: rollout(recording, target, normalise=False),
    "raw_attn": raw_attention,
    "attn_gradcam": lambda recording, target: minmax(attention_gradcam(recording, target), 2),
}
VISUALBERT_LRP: dict[str, Method] = {
    "transformer_attribution": transatt,
    "partial_lrp": lambda recording, target: minmax(partial_lrp(recording, target), 2),
}


def transformers_model(golden: Golden, dtype: torch.dtype) -> Any:
    cls = getattr(transformers, golden.model_class)
    return golden.weighted(cls(cls.config_class.from_dict(golden.config)), dtype)


def recorded_pass(model: Any, lrp: Any = None, **inputs: Tensor) -> Recording:
    with record(model, adapter_for(model), lrp) as recorder:
        model(**inputs)
    return recorder.recording


def targets_of(classes: Tensor) -> list[Target]:
    """One target for each column of class indices [samples, targets]."""
    return [given(column) for column in classes.unbind(1)]


def maps(recording: Recording, targets: list[Target], method: Method) -> Tensor:
    """[samples, targets, T, T]."""
    return torch.stack([method(recording, target) for target in targets], dim=1)


def gradients(recording: Recording, targets: list[Target], event: Event) -> Tensor:
    """[samples, targets, heads, q, k]."""
    return torch.stack([recording.gradients(target)[event].A for target in targets], dim=1)


def attention_relevances(recording: Recording, targets: list[Target], event: Event) -> Tensor:
    """[samples, targets, heads, q, k]."""
    return torch.stack([relevances(recording, target, TRANSATT).A[event] for target in targets], dim=1)


def vit(golden: Golden, dtype: torch.dtype) -> Iterator[Case]:
    inputs = golden.inputs(dtype)
    targets = targets_of(inputs["targets"])
    recording = recorded_pass(transformers_model(golden, dtype), pixel_values=inputs["pixel_values"])
    yield Case("logits", "outputs/logits", recording.output.logits, 1)
    for i, event in enumerate(recording.events):
        yield Case("attention", f"attention/{i}", event.A, 1)
        yield Case("attention gradient", f"attention_grad/{i}", gradients(recording, targets, event), 2)
    for name, method in VIT.items():
        scores = maps(recording, targets, method)[..., 0, 1:]
        yield Case(name, f"relevance/{name}", minmax(scores, 1) if name == "generate_cam_attn" else scores, 2)
    recording = recorded_pass(transformers_model(golden, dtype), "pixels", pixel_values=inputs["pixel_values"])
    yield Case("full", "relevance/full", maps(recording, targets, pixel_lrp), 2, lrp=True)
    for i, event in enumerate(recording.events):
        yield Case(
            "attention relevance", f"attention_cam/{i}", attention_relevances(recording, targets, event), 2, lrp=True
        )
        yield Case("attention gradient", f"attention_grad/{i}", gradients(recording, targets, event), 2)
    for name, method in VIT_LRP.items():
        yield Case(name, f"relevance/{name}", maps(recording, targets, method)[..., 0, 1:], 2, lrp=True)


def bert(golden: Golden, dtype: torch.dtype) -> Iterator[Case]:
    """The file's sequences have different lengths: one by one."""
    inputs, model = golden.inputs(dtype), transformers_model(golden, dtype)
    for sample in range(len(inputs["targets"])):
        ids, targets = inputs[f"input_ids/{sample}"][None], targets_of(inputs["targets"][sample][None])
        recording = recorded_pass(model, input_ids=ids, attention_mask=torch.ones_like(ids))
        yield Case("logits", "outputs/logits", recording.output.logits[0], 0, sample)
        for i, event in enumerate(recording.events):
            yield Case("attention", f"attention/{i}/{sample}", event.A[0], 0)
            yield Case("attention gradient", f"attention_grad/{i}/{sample}", gradients(recording, targets, event)[0], 1)
        for name, method in BERT.items():
            scores = maps(recording, targets, method)[0, :, 0]
            scores[:, 0] = 0
            yield Case(name, f"relevance/{name}/{sample}", scores, 1)
        yield from _bert_lrp(
            recorded_pass(model, "tokens", input_ids=ids, attention_mask=torch.ones_like(ids)), targets, sample
        )


def _bert_lrp(recording: Recording, targets: list[Target], sample: int) -> Iterator[Case]:
    for i, event in enumerate(recording.events):
        ours = attention_relevances(recording, targets, event)[0]
        yield Case("attention relevance", f"attention_cam/{i}/{sample}", ours, 1, lrp=True)
    for name, method in BERT_LRP.items():
        scores = maps(recording, targets, method)[0, :, 0]
        scores[:, 0] = 0 if name == "generate_LRP_last_layer" else scores.amin(dim=1)
        yield Case(name, f"relevance/{name}/{sample}", scores, 1, lrp=True)
    scores = maps(recording, targets, full_lrp)[0]
    scores[:, 0] = 0
    yield Case("generate_full_lrp", f"relevance/generate_full_lrp/{sample}", scores, 1, lrp=True)


def clip(golden: Golden, dtype: torch.dtype) -> Iterator[Case]:
    inputs = golden.inputs(dtype)
    model = golden.weighted(open_clip.model.CLIP(**golden.config), dtype)
    pixels, text = inputs["pixel_values"], inputs["text"]
    recording = recorded_pass(model, image=pixels, text=text)
    target = similarity()
    yield Case("logits", "outputs/pair_logits", target(recording.output), 1)
    yield Case("logits", "outputs/image_features", recording.output[0], 1)
    yield Case("logits", "outputs/text_features", recording.output[1], 1)
    for tower, where in recording.modalities.items():
        name = {"image": "visual", "text": "text"}[tower]
        for i, event in enumerate(event for event in recording.events if event.queries == where):
            yield Case("attention", f"attention/{name}/{i}", event.A, 1)
            yield Case("attention gradient", f"attention_grad/{name}/{i}", recording.gradients(target)[event].A, 1)
    yield from _clip_maps(recording, target, "relevance/", inputs["eot"])
    yield from _clip_maps(
        recorded_pass(model, image=pixels[:1].expand_as(pixels), text=text), target, "relevance/image0_all_texts/"
    )


def _clip_maps(recording: Recording, target: Score, start: str, ends: Tensor | None = None) -> Iterator[Case]:
    image, text = recording.modalities["image"], recording.modalities["text"]
    for suffix, last in (("start0", None), ("last", 1)):
        R = genatt(recording, target, last=last)
        keyed = {"image": R[:, image, image][:, 0, 1:], "text": R[:, text, text]}
        if ends is not None:
            keyed["text_eot_row"] = keyed["text"][torch.arange(len(R)), ends]
        for name, ours in keyed.items():
            key = f"{start}{name}_{suffix}"
            yield Case(key.removeprefix("relevance/").split("/")[0], key, ours, 1)


def visualbert(golden: Golden, dtype: torch.dtype) -> Iterator[Case]:
    inputs = golden.inputs(dtype)
    targets = targets_of(inputs.pop("targets"))
    del inputs["answer_scores"]
    recording = recorded_pass(transformers_model(golden, dtype), **inputs)
    yield Case("logits", "outputs/logits", recording.output.logits, 1)
    for i, event in enumerate(recording.events):
        key = f"modules/{i:02}_self.{i}/"
        yield Case("attention", key + "attn", event.A, 1)
        yield Case("attention gradient", key + "grad", gradients(recording, targets, event), 2)
    with_rules = recorded_pass(transformers_model(golden, dtype), "tokens", **inputs)
    for i, event in enumerate(with_rules.events):
        ours = attention_relevances(with_rules, targets, event)
        yield Case("attention relevance", f"modules/{i:02}_self.{i}/lrp_cam", ours, 2, lrp=True)
    samples, reads = torch.arange(len(recording.readout)), recording.readout.argmax(1)
    for name, method in {**VISUALBERT, **VISUALBERT_LRP}.items():
        lrp = name in VISUALBERT_LRP
        scores = maps(with_rules if lrp else recording, targets, method)[samples, :, reads]
        scores[samples, :, reads] = 0
        yield Case(name, f"relevance/{name}/scores", scores, 2, lrp=lrp)

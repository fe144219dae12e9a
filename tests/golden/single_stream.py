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
from xai.explainers import attention_gradcam, full_lrp, genatt, partial_lrp, pixel_lrp, raw_attention, rollout, transatt
from xai.lrp.positive import TRANSATT
from xai.lrp.relevances import relevances
from xai.tape import Event, Score, Tape

Method = Callable[[Tape, Score], Tensor]  # to a map [B, T, T]


def all_but_first(tape: Tape) -> int:
    return len(tape.layers) - 1


VIT: dict[str, Method] = {
    "last_layer_attn": raw_attention,
    "generate_cam_attn": lambda tape, target: attention_gradcam(tape, target, over="row"),
    "generate_rollout": rollout,
    "generate_rollout_start1": lambda tape, target: rollout(tape, target, last=all_but_first(tape)),
    "genatt": genatt,
}
VIT_LRP: dict[str, Method] = {
    "transformer_attribution": transatt,
    "transformer_attribution_start1": lambda tape, target: transatt(tape, target, last=all_but_first(tape)),
    "rollout": lambda tape, target: transatt(tape, target, gradient=False),
    "rollout_start1": lambda tape, target: transatt(tape, target, gradient=False, last=all_but_first(tape)),
    "last_layer": lambda tape, target: transatt(tape, target, gradient=False, block=-1),
    "last_layer_ablation": lambda tape, target: transatt(tape, target, block=-1),
    "second_layer": lambda tape, target: transatt(tape, target, gradient=False, block=1),
    "second_layer_ablation": lambda tape, target: transatt(tape, target, block=1),
}
BERT: dict[str, Method] = {
    "generate_attn_last_layer": raw_attention,
    "generate_rollout": rollout,
    "generate_rollout_start1": lambda tape, target: rollout(tape, target, last=all_but_first(tape)),
    "generate_attn_gradcam": lambda tape, target: minmax(attention_gradcam(tape, target), 2),
}
BERT_LRP: dict[str, Method] = {
    "generate_LRP_start0": lambda tape, target: transatt(tape, target, normalise=True),
    "generate_LRP_start1": lambda tape, target: transatt(tape, target, normalise=True, last=all_but_first(tape)),
    "generate_LRP_last": lambda tape, target: transatt(tape, target, normalise=True, last=1),
    "generate_LRP_last_layer": lambda tape, target: transatt(tape, target, gradient=False, block=-1),
}
VISUALBERT: dict[str, Method] = {
    "ours_no_lrp": genatt,
    "rollout": lambda tape, target: rollout(tape, target, normalise=False),
    "raw_attn": raw_attention,
    "attn_gradcam": lambda tape, target: minmax(attention_gradcam(tape, target), 2),
}
VISUALBERT_LRP: dict[str, Method] = {
    "transformer_attribution": transatt,
    "partial_lrp": lambda tape, target: minmax(partial_lrp(tape, target), 2),
}


def transformers_model(golden: Golden, dtype: torch.dtype) -> Any:
    cls = getattr(transformers, golden.model_class)
    return golden.weighted(cls(cls.config_class.from_dict(golden.config)), dtype)


def taped(model: Any, lrp: Any = None, **inputs: Tensor) -> Tape:
    with record(model, adapter_for(model), lrp) as recording:
        model(**inputs)
    return recording.tape


def targets_of(classes: Tensor) -> list[Target]:
    """One target for each column of class indices [samples, targets]."""
    return [given(column) for column in classes.unbind(1)]


def maps(tape: Tape, targets: list[Target], method: Method) -> Tensor:
    """[samples, targets, T, T]."""
    return torch.stack([method(tape, target) for target in targets], dim=1)


def gradients(tape: Tape, targets: list[Target], event: Event) -> Tensor:
    """[samples, targets, heads, q, k]."""
    return torch.stack([tape.gradients(target)[event].A for target in targets], dim=1)


def attention_relevances(tape: Tape, targets: list[Target], event: Event) -> Tensor:
    """[samples, targets, heads, q, k]."""
    return torch.stack([relevances(tape, target, TRANSATT).A[event] for target in targets], dim=1)


def vit(golden: Golden, dtype: torch.dtype) -> Iterator[Case]:
    inputs = golden.inputs(dtype)
    targets = targets_of(inputs["targets"])
    tape = taped(transformers_model(golden, dtype), pixel_values=inputs["pixel_values"])
    yield Case("logits", "outputs/logits", tape.output.logits, 1)
    for i, event in enumerate(tape.events):
        yield Case("attention", f"attention/{i}", event.A, 1)
        yield Case("attention gradient", f"attention_grad/{i}", gradients(tape, targets, event), 2)
    for name, method in VIT.items():
        scores = maps(tape, targets, method)[..., 0, 1:]
        yield Case(name, f"relevance/{name}", minmax(scores, 1) if name == "generate_cam_attn" else scores, 2)
    tape = taped(transformers_model(golden, dtype), "pixels", pixel_values=inputs["pixel_values"])
    yield Case("full", "relevance/full", maps(tape, targets, pixel_lrp), 2, lrp=True)
    for i, event in enumerate(tape.events):
        yield Case("attention relevance", f"attention_cam/{i}", attention_relevances(tape, targets, event), 2, lrp=True)
        yield Case("attention gradient", f"attention_grad/{i}", gradients(tape, targets, event), 2)
    for name, method in VIT_LRP.items():
        yield Case(name, f"relevance/{name}", maps(tape, targets, method)[..., 0, 1:], 2, lrp=True)


def bert(golden: Golden, dtype: torch.dtype) -> Iterator[Case]:
    """The file's sequences have different lengths: one by one."""
    inputs, model = golden.inputs(dtype), transformers_model(golden, dtype)
    for sample in range(len(inputs["targets"])):
        ids, targets = inputs[f"input_ids/{sample}"][None], targets_of(inputs["targets"][sample][None])
        tape = taped(model, input_ids=ids, attention_mask=torch.ones_like(ids))
        yield Case("logits", "outputs/logits", tape.output.logits[0], 0, sample)
        for i, event in enumerate(tape.events):
            yield Case("attention", f"attention/{i}/{sample}", event.A[0], 0)
            yield Case("attention gradient", f"attention_grad/{i}/{sample}", gradients(tape, targets, event)[0], 1)
        for name, method in BERT.items():
            scores = maps(tape, targets, method)[0, :, 0]
            scores[:, 0] = 0
            yield Case(name, f"relevance/{name}/{sample}", scores, 1)
        yield from _bert_lrp(
            taped(model, "tokens", input_ids=ids, attention_mask=torch.ones_like(ids)), targets, sample
        )


def _bert_lrp(tape: Tape, targets: list[Target], sample: int) -> Iterator[Case]:
    for i, event in enumerate(tape.events):
        ours = attention_relevances(tape, targets, event)[0]
        yield Case("attention relevance", f"attention_cam/{i}/{sample}", ours, 1, lrp=True)
    for name, method in BERT_LRP.items():
        scores = maps(tape, targets, method)[0, :, 0]
        scores[:, 0] = 0 if name == "generate_LRP_last_layer" else scores.amin(dim=1)
        yield Case(name, f"relevance/{name}/{sample}", scores, 1, lrp=True)
    scores = maps(tape, targets, full_lrp)[0]
    scores[:, 0] = 0
    yield Case("generate_full_lrp", f"relevance/generate_full_lrp/{sample}", scores, 1, lrp=True)


def clip(golden: Golden, dtype: torch.dtype) -> Iterator[Case]:
    inputs = golden.inputs(dtype)
    model = golden.weighted(open_clip.model.CLIP(**golden.config), dtype)
    pixels, text = inputs["pixel_values"], inputs["text"]
    tape = taped(model, image=pixels, text=text)
    target = similarity()
    yield Case("logits", "outputs/pair_logits", target(tape.output), 1)
    yield Case("logits", "outputs/image_features", tape.output[0], 1)
    yield Case("logits", "outputs/text_features", tape.output[1], 1)
    for tower, where in tape.modalities.items():
        name = {"image": "visual", "text": "text"}[tower]
        for i, event in enumerate(event for event in tape.events if event.queries == where):
            yield Case("attention", f"attention/{name}/{i}", event.A, 1)
            yield Case("attention gradient", f"attention_grad/{name}/{i}", tape.gradients(target)[event].A, 1)
    yield from _clip_maps(tape, target, "relevance/", inputs["eot"])
    yield from _clip_maps(
        taped(model, image=pixels[:1].expand_as(pixels), text=text), target, "relevance/image0_all_texts/"
    )


def _clip_maps(tape: Tape, target: Score, start: str, ends: Tensor | None = None) -> Iterator[Case]:
    image, text = tape.modalities["image"], tape.modalities["text"]
    for suffix, last in (("start0", None), ("last", 1)):
        R = genatt(tape, target, last=last)
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
    tape = taped(transformers_model(golden, dtype), **inputs)
    yield Case("logits", "outputs/logits", tape.output.logits, 1)
    for i, event in enumerate(tape.events):
        key = f"modules/{i:02}_self.{i}/"
        yield Case("attention", key + "attn", event.A, 1)
        yield Case("attention gradient", key + "grad", gradients(tape, targets, event), 2)
    with_rules = taped(transformers_model(golden, dtype), "tokens", **inputs)
    for i, event in enumerate(with_rules.events):
        ours = attention_relevances(with_rules, targets, event)
        yield Case("attention relevance", f"modules/{i:02}_self.{i}/lrp_cam", ours, 2, lrp=True)
    samples, reads = torch.arange(len(tape.read)), tape.read.argmax(1)
    for name, method in {**VISUALBERT, **VISUALBERT_LRP}.items():
        lrp = name in VISUALBERT_LRP
        scores = maps(with_rules if lrp else tape, targets, method)[samples, :, reads]
        scores[samples, :, reads] = 0
        yield Case(name, f"relevance/{name}/scores", scores, 2, lrp=lrp)

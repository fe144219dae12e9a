"""The reference's names for LXMERT and DETR, and our explainers with the options that give their numbers."""

from collections.abc import Iterator

import torch
from golden import Case, Golden, minmax
from single_stream import Method, attention_relevances, gradients, maps, recorded_pass, targets_of, transformers_model

from xai import detection
from xai.explainers.attention_gradcam import attention_gradcam
from xai.explainers.genatt import genatt
from xai.explainers.genatt_lrp import genatt_lrp
from xai.explainers.partial_lrp import partial_lrp
from xai.explainers.raw_attention import raw_attention
from xai.explainers.rollout import rollout
from xai.explainers.transatt import transatt
from xai.recording.event import Event
from xai.recording.recording import Recording

BOTH: dict[str, Method] = {
    "ours_no_lrp_no_norm": lambda recording, target: genatt(recording, target, normalise=False),
    "ablation_no_self_in_10": lambda recording, target: genatt(recording, target, self_in_cross=False),
    "ablation_no_aggregation": lambda recording, target: genatt(recording, target, aggregate=False),
    "raw_attn": raw_attention,
    "rollout": rollout,
    "attn_gradcam": attention_gradcam,
}
LXMERT: dict[str, Method] = {"ours_no_lrp": genatt, **BOTH}
# DETR's code turns every NaN of an addition into 0, and one row without evidence makes them all NaN
DETR: dict[str, Method] = {
    "ours_no_lrp": lambda recording, target: genatt(recording, target, drop_undefined=True),
    **BOTH,
}
WITH_LRP: dict[str, Method] = {"transformer_att": transatt, "partial_lrp": partial_lrp}
LXMERT_LRP: dict[str, Method] = {
    "ours_with_lrp": genatt_lrp,
    "ours_with_lrp_no_normalization": lambda recording, target: genatt_lrp(recording, target, normalise=False),
    "ablation_no_self_in_10_with_lrp": lambda recording, target: genatt_lrp(recording, target, self_in_cross=False),
    **WITH_LRP,
}
DETR_LRP: dict[str, Method] = {
    "ours_with_lrp": lambda recording, target: genatt_lrp(recording, target, drop_undefined=True),
    "ours_with_lrp_no_norm": lambda recording, target: genatt_lrp(recording, target, normalise=False),
    **WITH_LRP,
}


def lxmert(golden: Golden, dtype: torch.dtype) -> Iterator[Case]:
    inputs = golden.inputs(dtype)
    targets = targets_of(inputs.pop("targets"))
    del inputs["answer_scores"]
    recording = recorded_pass(transformers_model(golden, dtype), **inputs)
    yield Case("logits", "outputs/logits", recording.output.question_answering_score, 1)
    for key in _modules(golden):
        event = _lxmert_event(recording, key)
        yield Case("attention", f"modules/{key}/attn", event.A, 1)
        if f"modules/{key}/grad" in golden.tensors:  # none where nothing reaches the answer
            yield Case("attention gradient", f"modules/{key}/grad", gradients(recording, targets, event), 2)
    with_rules = recorded_pass(transformers_model(golden, dtype), "tokens", **inputs)
    for key in _modules(golden):
        ours = attention_relevances(with_rules, targets, _lxmert_event(with_rules, key))
        yield Case("attention relevance", f"modules/{key}/lrp_cam", ours, 2, lrp=True)
    slices = {"t": recording.modalities["text"], "i": recording.modalities["regions"]}
    for name, method in {**LXMERT, **LXMERT_LRP}.items():
        lrp = name in LXMERT_LRP
        R = maps(with_rules if lrp else recording, targets, method)
        for block in _blocks(golden, name):
            ours = R[..., slices[block[2]], slices[block[4]]].clone()
            ours = minmax(ours, 2) if name == "partial_lrp" else ours
            if block == "R_t_t":
                ours[..., 0, 0] = 0
            identity = _starts_from_identity(name, block)
            yield Case(name, f"relevance/{name}/{block}", ours, 2, without_identity=identity, lrp=lrp)


def detr(golden: Golden, dtype: torch.dtype) -> Iterator[Case]:
    inputs = golden.inputs(dtype)
    images = {name: inputs[name] for name in ("pixel_values", "pixel_mask")}
    model = transformers_model(golden, dtype)
    recording, with_rules = recorded_pass(model, **images), recorded_pass(model, "tokens", **images)
    yield Case("logits", "outputs/logits", recording.output.logits[0], 1)
    yield Case("logits", "outputs/pred_boxes", recording.output.pred_boxes[0], 1)
    queries = inputs["target_queries"].tolist()
    targets = [detection(query, label) for query, label in zip(queries, inputs["target_classes"].tolist(), strict=True)]
    for key in _modules(golden):
        event = _detr_event(recording, key)
        yield Case("attention", f"modules/{key}/attn", event.A[0], 0)
        grad = torch.cat([recording.gradients(target)[event].A for target in targets])
        yield Case("attention gradient", f"modules/{key}/grad", grad, 1)
        ours = attention_relevances(with_rules, targets, _detr_event(with_rules, key))[0]
        yield Case("attention relevance", f"modules/{key}/lrp_cam", ours, 1, lrp=True)
    slices = {"q": recording.modalities["queries"], "i": recording.modalities["image"]}
    for name, method in {**DETR, **DETR_LRP}.items():
        lrp = name in DETR_LRP
        R = torch.cat([method(with_rules if lrp else recording, target) for target in targets])
        shown = R[:, slices["q"], slices["i"]]
        shown = minmax(shown, 2) if name == "partial_lrp" else shown
        yield Case(name, f"relevance/{name}/scores", shown[torch.arange(len(R)), queries], 1, lrp=lrp)
        for block in _blocks(golden, name):
            ours, identity = R[:, slices[block[2]], slices[block[4]]], _starts_from_identity(name, block)
            yield Case(name, f"relevance/{name}/{block}", ours, 1, without_identity=identity, lrp=lrp)


def _modules(golden: Golden) -> list[str]:
    return sorted({key.split("/")[1] for key in golden.tensors if key.startswith("modules/")})


def _blocks(golden: Golden, method: str) -> list[str]:
    start = f"relevance/{method}/"
    return [key.removeprefix(start) for key in sorted(golden.tensors) if key.startswith(start + "R_")]


def _starts_from_identity(method: str, block: str) -> bool:
    return method.startswith(("ours", "ablation_no_self")) and block[2] == block[4]


def _lxmert_event(recording: Recording, key: str) -> Event:
    """`key` is for instance 00_lang_self.0 or 04_x0.cross_text_from_image."""
    stage, part = key.split("_", 1)[1].split(".")
    if stage.startswith("x"):
        start = f"lxmert.encoder.x_layers.{stage[1:]}."
        name = {"lang_self": "lang_self_att.self", "visn_self": "visn_self_att.self"}.get(part, "visual_attention.att")
    else:
        start, name = f"lxmert.encoder.{'layer' if stage == 'lang_self' else 'r_layers'}.{part}.", "attention.self"
    asks = "text" if part.startswith("cross_text") or "lang" in key else "regions"
    return _only(recording, start + name, recording.modalities[asks])


def _detr_event(recording: Recording, key: str) -> Event:
    """`key` is for instance 03_decoder_cross.0."""
    half, rest = key.split("_", 1)[1].split("_")
    kind, layer = rest.split(".")
    name = f"model.{half}.layers.{layer}.{'encoder_attn' if kind == 'cross' else 'self_attn'}"
    return _only(recording, name, recording.modalities["image" if half == "encoder" else "queries"])


def _only(recording: Recording, module: str, queries: slice) -> Event:
    (event,) = (event for event in recording.events if event.module == module and event.queries == queries)
    return event

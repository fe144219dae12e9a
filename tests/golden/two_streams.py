"""The reference's names for LXMERT and DETR, and our explainers with the options that give their numbers."""

from collections.abc import Iterator

import torch
from golden import Case, Golden
from single_stream import Method, gradients, maps, taped, targets_of, transformers_model

from xai import detection
from xai.explainers import attention_gradcam, genatt, raw_attention, rollout
from xai.tape import Event, Tape

BOTH: dict[str, Method] = {
    "ours_no_lrp_no_norm": lambda tape, target: genatt(tape, target, normalise=False),
    "ablation_no_self_in_10": lambda tape, target: genatt(tape, target, self_in_cross=False),
    "ablation_no_aggregation": lambda tape, target: genatt(tape, target, aggregate=False),
    "raw_attn": raw_attention,
    "rollout": rollout,
    "attn_gradcam": attention_gradcam,
}
LXMERT: dict[str, Method] = {"ours_no_lrp": genatt, **BOTH}
# DETR's code turns every NaN of an addition into 0, and one row without evidence makes them all NaN
DETR: dict[str, Method] = {"ours_no_lrp": lambda tape, target: genatt(tape, target, drop_undefined=True), **BOTH}


def lxmert(golden: Golden, dtype: torch.dtype) -> Iterator[Case]:
    inputs = golden.inputs(dtype)
    targets = targets_of(inputs.pop("targets"))
    del inputs["answer_scores"]
    tape = taped(transformers_model(golden, dtype), **inputs)
    yield Case("logits", "outputs/logits", tape.output.question_answering_score, 1)
    for key in _modules(golden):
        event = _lxmert_event(tape, key)
        yield Case("attention", f"modules/{key}/attn", event.A, 1)
        if f"modules/{key}/grad" in golden.tensors:  # none where nothing reaches the answer
            yield Case("attention gradient", f"modules/{key}/grad", gradients(tape, targets, event), 2)
    slices = {"t": tape.modalities["text"], "i": tape.modalities["regions"]}
    for name, method in LXMERT.items():
        R = maps(tape, targets, method)
        for block in _blocks(golden, name):
            ours = R[..., slices[block[2]], slices[block[4]]].clone()
            if block == "R_t_t":
                ours[..., 0, 0] = 0
            yield Case(name, f"relevance/{name}/{block}", ours, 2, without_identity=_starts_from_identity(name, block))


def detr(golden: Golden, dtype: torch.dtype) -> Iterator[Case]:
    inputs = golden.inputs(dtype)
    tape = taped(
        transformers_model(golden, dtype), pixel_values=inputs["pixel_values"], pixel_mask=inputs["pixel_mask"]
    )
    yield Case("logits", "outputs/logits", tape.output.logits[0], 1)
    yield Case("logits", "outputs/pred_boxes", tape.output.pred_boxes[0], 1)
    queries = inputs["target_queries"].tolist()
    targets = [detection(query, label) for query, label in zip(queries, inputs["target_classes"].tolist(), strict=True)]
    for key in _modules(golden):
        event = _detr_event(tape, key)
        yield Case("attention", f"modules/{key}/attn", event.A[0], 0)
        grad = torch.cat([tape.gradients(target)[event].A for target in targets])
        yield Case("attention gradient", f"modules/{key}/grad", grad, 1)
    slices = {"q": tape.modalities["queries"], "i": tape.modalities["image"]}
    for name, method in DETR.items():
        R = torch.cat([method(tape, target) for target in targets])
        yield Case(name, f"relevance/{name}/scores", R[torch.arange(len(R)), queries, slices["i"]], 1)
        for block in _blocks(golden, name):
            ours = R[:, slices[block[2]], slices[block[4]]]
            yield Case(name, f"relevance/{name}/{block}", ours, 1, without_identity=_starts_from_identity(name, block))


def _modules(golden: Golden) -> list[str]:
    return sorted({key.split("/")[1] for key in golden.tensors if key.startswith("modules/")})


def _blocks(golden: Golden, method: str) -> list[str]:
    start = f"relevance/{method}/"
    return [key.removeprefix(start) for key in sorted(golden.tensors) if key.startswith(start + "R_")]


def _starts_from_identity(method: str, block: str) -> bool:
    return method.startswith(("ours", "ablation_no_self")) and block[2] == block[4]


def _lxmert_event(tape: Tape, key: str) -> Event:
    """`key` is for instance 00_lang_self.0 or 04_x0.cross_text_from_image."""
    stage, part = key.split("_", 1)[1].split(".")
    if stage.startswith("x"):
        start = f"lxmert.encoder.x_layers.{stage[1:]}."
        name = {"lang_self": "lang_self_att.self", "visn_self": "visn_self_att.self"}.get(part, "visual_attention.att")
    else:
        start, name = f"lxmert.encoder.{'layer' if stage == 'lang_self' else 'r_layers'}.{part}.", "attention.self"
    asks = "text" if part.startswith("cross_text") or "lang" in key else "regions"
    return _only(tape, start + name, tape.modalities[asks])


def _detr_event(tape: Tape, key: str) -> Event:
    """`key` is for instance 03_decoder_cross.0."""
    half, rest = key.split("_", 1)[1].split("_")
    kind, layer = rest.split(".")
    name = f"model.{half}.layers.{layer}.{'encoder_attn' if kind == 'cross' else 'self_attn'}"
    return _only(tape, name, tape.modalities["image" if half == "encoder" else "queries"])


def _only(tape: Tape, module: str, queries: slice) -> Event:
    (event,) = (event for event in tape.events if event.module == module and event.queries == queries)
    return event

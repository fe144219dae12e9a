"""LXMERT: two streams [regions | text] with co-attention; the head reads the first text token."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from xai.adapters.bert import text_masks
from xai.adapters.common import prefix_of, side_by_side, stack
from xai.recording.adapter import Adapter, Layout, Site, Stream, at

REGIONS: Stream = ("regions",)
TEXT: Stream = ("text",)


def lxmert(model: nn.Module) -> Adapter:
    encoder = prefix_of(model) + "encoder."
    names = _attention("attention.", "self")
    layers = [
        *side_by_side(
            stack(model, encoder + "layer", TEXT, *names), stack(model, encoder + "r_layers", REGIONS, *names)
        )
    ]
    for i, _ in model.get_submodule(encoder + "x_layers").named_children():
        layer = f"{encoder}x_layers.{i}."
        cross = _attention(layer + "visual_attention.", "att")  # one module, called for each direction in turn
        layers.append((_site(TEXT, REGIONS, cross), _site(REGIONS, TEXT, cross)))
        text, regions = (_attention(f"{layer}{name}_self_att.", "self") for name in ("lang", "visn"))
        layers.append((_site(TEXT, TEXT, text), _site(REGIONS, REGIONS, regions)))
    return Adapter(tuple(layers), _layout)


def _attention(prefix: str, name: str) -> tuple[str, str, str]:
    return prefix + name, prefix + name, prefix + "output.dense"


def _site(queries: Stream, keys: Stream, names: tuple[str, str, str]) -> Site:
    module, residual, output = names
    return Site(module, queries, keys, residual, output)


def _layout(inputs: Mapping[str, Any], sizes: Mapping[Stream, int]) -> Layout:
    length = sizes[TEXT]
    text, special = text_masks(inputs, length)
    regions = inputs.get("visual_attention_mask")
    mask = {"text": text} if regions is None else {"text": text, "regions": regions}
    return Layout({"regions": sizes[REGIONS], "text": length}, {"text": at(0, length)}, mask, {"text": special})

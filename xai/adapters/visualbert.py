"""VisualBERT: one stream [text | regions]."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from xai.adapters.bert import bert_sites, text_masks
from xai.adapters.common import side_by_side
from xai.recording.adapter import Adapter, Layout, Stream, at

JOINT: Stream = ("text", "regions")


def visualbert(model: nn.Module) -> Adapter:
    """The question answering head reads the token before the last real one, other heads the first."""
    before_last = type(model).__name__ == "VisualBertForQuestionAnswering"

    def layout(inputs: Mapping[str, Any], sizes: Mapping[Stream, int]) -> Layout:
        ids = inputs.get("input_ids")
        length = (inputs["inputs_embeds"] if ids is None else ids).shape[1]
        lengths = {"text": length, "regions": sizes[JOINT] - length}
        text, special = text_masks(inputs, length)
        regions = inputs.get("visual_attention_mask")
        mask = {"text": text} if regions is None else {"text": text, "regions": regions}
        position = text.sum(1).long() - 2 if before_last else 0
        return Layout(lengths, {"text": at(position, length)}, mask, {"text": special})

    return Adapter(side_by_side(bert_sites(model, JOINT)), layout)

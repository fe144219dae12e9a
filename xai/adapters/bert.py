"""Text encoders of transformers built like BERT. One modality, "text"; the head reads the first token."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from xai.adapter import Adapter, Layout, Site, Stream, at
from xai.adapters.common import prefix_of, side_by_side, stack

TEXT: Stream = ("text",)


def bert(model: nn.Module) -> Adapter:
    """BERT, RoBERTa, ELECTRA and their like."""
    return _adapter(bert_sites(model, TEXT))


def distilbert(model: nn.Module) -> Adapter:
    layers = prefix_of(model) + "transformer.layer"
    return _adapter(stack(model, layers, TEXT, module="attention", residual="attention", output="attention.out_lin"))


def bert_sites(model: nn.Module, stream: Stream) -> list[Site]:
    """Layers with BERT's names, which others of its time share."""
    layers = prefix_of(model) + "encoder.layer"
    return stack(
        model, layers, stream, module="attention.self", residual="attention.self", output="attention.output.dense"
    )


def _adapter(sites: list[Site]) -> Adapter:
    def layout(inputs: Mapping[str, Any], sizes: Mapping[Stream, int]) -> Layout:
        mask = inputs.get("attention_mask")
        return Layout({"text": sizes[TEXT]}, {"text": at(0, sizes[TEXT])}, {} if mask is None else {"text": mask})

    return Adapter(side_by_side(sites), layout)

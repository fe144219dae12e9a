"""Text encoders of transformers built like BERT. One modality, "text"; the head reads the first token."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xai.adapters.common import prefix_of, side_by_side, stack, text_ends
from xai.recording.adapter import Adapter, Layout, Site, Stream, at

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


def text_masks(inputs: Mapping[str, Any], length: int) -> tuple[Tensor, Tensor]:
    """Returns the mask and the special tokens, [B or 1, length] each.

    Args:
        inputs: arguments of forward, by name; `attention_mask` and `input_ids` may be absent or None.
        length: tokens of the text.

    Raises:
        ValueError: texts with another axis, as those for multiple choice have.
    """
    mask, ids = inputs.get("attention_mask"), inputs.get("input_ids")
    for name, value in (("input_ids", ids), ("attention_mask", mask)):
        if value is not None and value.dim() != 2:
            raise ValueError(
                f"{name} has shape {list(value.shape)}, expected [batch, tokens]. A model for multiple choice turns its "
                "choices into samples: load its encoder with a head for one text (...ForSequenceClassification) and give each "
                "choice as a sample"
            )
    mask = torch.ones(1, length, dtype=torch.bool, device=None if ids is None else ids.device) if mask is None else mask
    return mask, text_ends(ids, mask)


def _adapter(sites: list[Site]) -> Adapter:
    def layout(inputs: Mapping[str, Any], sizes: Mapping[Stream, int]) -> Layout:
        length = sizes[TEXT]
        mask, special = text_masks(inputs, length)
        return Layout({"text": length}, {"text": at(0, length)}, {"text": mask}, {"text": special})

    return Adapter(side_by_side(sites), layout)

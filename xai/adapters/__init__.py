"""The model families that have a table, by library and class name, so that none of the libraries need be there.

A table needs no inputs and no observed pass; every other model is found from itself (`derived`), and tests hold that both agree.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from xai.adapters.bert import bert, distilbert
from xai.adapters.clip import open_clip, transformers_clip
from xai.adapters.derived import derived
from xai.adapters.detr import detr
from xai.adapters.lxmert import lxmert
from xai.adapters.visualbert import visualbert
from xai.adapters.vit import dinov2, timm_vit, torchvision_vit, two_headed_timm_vit, two_headed_vit, vit
from xai.recording.adapter import Adapter
from xai.recording.checks import check_model, wrapped

ADAPTERS: dict[str, Callable[[nn.Module], Adapter]] = {
    "transformers.DeiTForImageClassificationWithTeacher": two_headed_vit,
    "transformers.ViTPreTrainedModel": vit,
    "transformers.DeiTPreTrainedModel": vit,
    "transformers.Dinov2PreTrainedModel": dinov2,
    "transformers.Dinov2WithRegistersPreTrainedModel": dinov2,
    "timm.VisionTransformerDistilled": two_headed_timm_vit,
    "timm.VisionTransformer": timm_vit,
    "torchvision.VisionTransformer": torchvision_vit,
    "transformers.BertPreTrainedModel": bert,
    "transformers.RobertaPreTrainedModel": bert,
    "transformers.XLMRobertaPreTrainedModel": bert,
    "transformers.ElectraPreTrainedModel": bert,
    "transformers.DistilBertPreTrainedModel": distilbert,
    "open_clip.CLIP": open_clip,
    "open_clip.CustomTextCLIP": open_clip,
    "transformers.CLIPModel": transformers_clip,
    "transformers.VisualBertPreTrainedModel": visualbert,
    "transformers.LxmertPreTrainedModel": lxmert,
    "transformers.DetrPreTrainedModel": detr,
}


def adapter_for(model: nn.Module, inputs: Any = None) -> Adapter:
    """Returns where a model's attentions are and which tokens they join.

    Args:
        model: is left as it was.
        inputs: the arguments of its forward, by name or in order. They are needed for a model that no table here names: one
            more forward pass shows its adapter, which then fits inputs of the same shapes.

    Returns:
        The table of the nearest known class among the model's own and its bases, or what is found from the model itself.

    Raises:
        TypeError: there is no table and no inputs are given, or what is found leaves a doubt; names the module. Or what is
            given is no module of torch's, or no tensors.
        ValueError: the table does not know this variant of its class, and no inputs are given.

    Example:
        >>> import torch
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> from xai import adapter_for
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2))
        >>> adapter = adapter_for(model, {"input_ids": torch.tensor([[5, 7, 9]])})
        >>> [site.module for site in adapter.sites]
        ['transformer.h.0.attn', 'transformer.h.1.attn']
    """
    check_model(model)
    if build := _builder(model):
        try:
            return build(model)
        except ValueError:  # a variant that the table does not know, such as another pooling
            if inputs is None:
                raise
            return derived(model, inputs)
    name = type(model).__name__
    if inside := wrapped(model):
        raise TypeError(f"{name} wraps the model to explain: give the model inside, `model.{inside}`")
    if inputs is not None:
        return derived(model, inputs)
    part = next((part for part, module in model.named_modules() if part and _builder(module)), None)
    hint = f" Its part `model.{part}` has one and can be explained alone." if part else ""
    raise TypeError(
        f"no adapter for {name}: give inputs to find one from the model itself, adapter_for(model, inputs), or write one "
        f"(docs/how-to-explain-your-own-model.md) and give it as `adapter=`.{hint}"
    )


def observed(model: nn.Module, inputs: Any) -> Adapter:
    """Returns what is found from a model itself, as `derived` does, with what a table of it knows of its ends.

    Its places, which a table has not, are what tokens are hidden by.
    """
    build, found = _builder(model), derived(model, inputs)
    try:
        return found if build is None else replace(found, heads=build(model).heads)
    except ValueError:  # a variant that the table does not know
        return found


def _builder(model: nn.Module) -> Callable[[Any], Adapter] | None:
    names = (f"{cls.__module__.split('.')[0]}.{cls.__name__}" for cls in type(model).__mro__)
    return next((ADAPTERS[name] for name in names if name in ADAPTERS), None)

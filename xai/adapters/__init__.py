"""The model families xai knows, by library and class name, so that none of the libraries need be there."""

from collections.abc import Callable
from typing import Any

from torch import nn

from xai.adapters.bert import bert, distilbert
from xai.adapters.clip import open_clip, transformers_clip
from xai.adapters.common import wrapped
from xai.adapters.detr import detr
from xai.adapters.lxmert import lxmert
from xai.adapters.visualbert import visualbert
from xai.adapters.vit import dinov2, timm_vit, torchvision_vit, two_headed_timm_vit, two_headed_vit, vit
from xai.recording.adapter import Adapter

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


def adapter_for(model: nn.Module) -> Adapter:
    """Returns the adapter of the nearest known class among a model's own and its bases.

    Raises:
        TypeError: there is none; names the part of the model that has one.
    """
    if build := _builder(model):
        return build(model)
    name = type(model).__name__
    if inside := wrapped(model):
        raise TypeError(f"{name} wraps the model to explain: give the model inside, `model.{inside}`")
    part = next((part for part, module in model.named_modules() if part and _builder(module)), None)
    hint = f" Its part `model.{part}` has one and can be explained alone." if part else ""
    raise TypeError(
        f"no adapter for {name}: write one (docs/how-to-explain-your-own-model.md) and give it as `adapter=`.{hint} "
        "Hierarchical models such as Swin, whose tokens merge between layers, cannot be explained on one token axis"
    )


def _builder(model: nn.Module) -> Callable[[Any], Adapter] | None:
    names = (f"{cls.__module__.split('.')[0]}.{cls.__name__}" for cls in type(model).__mro__)
    return next((ADAPTERS[name] for name in names if name in ADAPTERS), None)

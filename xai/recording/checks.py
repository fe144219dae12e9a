"""What can be recorded: a model whose modules can be watched, and a call of it with tensors of a batch."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

# Torch's classes that hold a model and call it -> the attribute.
WRAPPERS = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
    "OptimizedModule": "_orig_mod",
}
TENSORS = (
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "inputs_embeds",
    "pixel_values",
)  # whatever a model does with others


def wrapped(model: nn.Module) -> str | None:
    """Returns the name of the attribute that holds the model inside a wrapper; None for what is no wrapper."""
    return next((WRAPPERS[cls.__name__] for cls in type(model).__mro__ if cls.__name__ in WRAPPERS), None)


def unwrapped(model: nn.Module) -> nn.Module:
    """Returns the model inside all its wrappers. Raises TypeError as `check_model`."""
    check_model(model)
    while name := wrapped(model):
        model = getattr(model, name)
    return model


def check_model(model: Any) -> None:
    """Raises TypeError, with what to give, for what is no module of torch's, such as a pipeline, or TorchScript."""
    if isinstance(model, nn.Module) and not isinstance(model, torch.jit.ScriptModule):
        return
    inside = next((part for part in ("model", "func") if isinstance(getattr(model, part, None), nn.Module)), None)
    known = inside and not isinstance(model, nn.Module)
    hint = f"give `.{inside}` of it" if known else "give the nn.Module that it is made of"
    raise TypeError(f"{type(model).__name__} is not a model whose modules can be watched: {hint}")


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuses what tokenizers and processors return where they were not asked for tensors of a batch."""
    for name, value in arguments.items():
        if name in TENSORS and value is not None and not isinstance(value, Tensor):
            raise TypeError(f'inputs: {name} is a {type(value).__name__}; give tensors: return_tensors="pt"')
        if name == "input_ids" and (value is not None and (value.ndim < 2 or not value.numel())):
            raise ValueError(f"inputs: {name} has shape {[*value.shape]}; give [samples, tokens], at least one of each")


def plain(value: Any) -> Any:
    """Turns mappings of any type, nested ones too, into dicts: PyTorch looks into no others."""
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    return type(value)(map(plain, value)) if type(value) in (list, tuple) else value


def beyond(model: nn.Module, inputs: Any) -> str | None:
    """Returns which tokens a model that failed has no row for; None where it has all."""
    ids = inputs.get("input_ids") if isinstance(inputs, dict) else None
    if ids is None:
        return None
    rows = getattr(getattr(model, "config", None), "vocab_size", None)
    if rows is not None and int(ids.max()) >= rows:
        return f"input_ids has token {int(ids.max())} of a model of {rows}: take the tokenizer that was saved with it"
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if positions is not None and ids.shape[-1] > positions:
        return f"{ids.shape[-1]} tokens, of which the model has places for {positions}: tokenizer(..., truncation=True)"
    return None

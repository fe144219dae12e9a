"""What torch computes while a model is recorded: attention is written out, so that its probabilities can be seen."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from xai.recording.attention import multi_head, scaled_dot_product, shape_of_multi_head, shape_of_scaled_dot_product
from xai.recording.deformable import deformable_attention, written_out
from xai.recording.places import drawn_in_order

SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)
ATTENTION: dict[Any, Callable[..., Any]] = {  # softmax and mixing of values, and how each is written out
    F.scaled_dot_product_attention: scaled_dot_product,
    F.multi_head_attention_forward: multi_head,
    deformable_attention: written_out,
}
WATCHED = frozenset((*SOFTMAX, *ATTENTION, F.linear, torch.multinomial))
SHAPES = {
    F.scaled_dot_product_attention: shape_of_scaled_dot_product,
    F.multi_head_attention_forward: shape_of_multi_head,
}


class Watch(TorchFunctionMode):
    """Replaces attention by attention written out, and shows `run` its probabilities; or only their shape, which costs less.

    `ruling` is a mode below, which rules what is called here: itself, as two modes for every call would take twice as long.
    """

    def __init__(self, run: Any, written: bool = True, ruling: TorchFunctionMode | None = None) -> None:
        super().__init__()
        self.run, self.written, self.ruling = run, written, ruling

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch._C._set_grad_enabled:  # a frozen part under no_grad is explained too
            return None
        if not self.run.counted:  # most calls go straight on: a model of few samples pays for each
            return self._call(func, args, kwargs) if func in WATCHED else self._below(func, args, kwargs)
        self.run.calling(func)
        return self.run.called(self._call(func, args, kwargs))

    def _below(self, func: Any, args: tuple, kwargs: dict) -> Any:
        return func(*args, **kwargs) if self.ruling is None else self.ruling.__torch_function__(func, (), args, kwargs)

    def _call(self, func: Any, args: tuple, kwargs: dict) -> Any:
        if func in ATTENTION and not self.run.is_attention(func):  # nothing reads it: off the graph it needs no rules
            args, kwargs = tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, (args, kwargs))
            return func(*args, **kwargs)
        if func in SHAPES and not self.written:
            self.run.see(SHAPES[func](*args, **kwargs))
            return func(*args, **kwargs)
        if func in ATTENTION:
            with self.ruling or nullcontext():
                mixed = ATTENTION[func](self.run.see, *args, **kwargs)
            if func is F.scaled_dot_product_attention:
                self.run.mixed = mixed.grad_fn
            return mixed
        if func is F.linear and self.run.qkv is not None:
            call = {**dict(zip(("input", "weight", "bias"), args, strict=False)), **kwargs}
            self.run.see_projection(call["input"], call["weight"], call.get("bias"))
        result = (drawn_in_order if func is torch.multinomial else self._below)(func, args, kwargs)
        if self.run.is_map(func):
            return self.run.see_softmax(result)
        return result

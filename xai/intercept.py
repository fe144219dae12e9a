"""Recording: one forward pass of a stock model, with every attention that its adapter names laid on a tape."""

import inspect
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from xai.adapter import Adapter
from xai.assemble import Captured, RecordingError, assemble
from xai.attention import multi_head, scaled_dot_product
from xai.tape import Tape

_SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)


class Recording:
    """What `record` yields; `tape` is there after the forward pass."""

    def __init__(self) -> None:
        self._tape: Tape | None = None

    @property
    def tape(self) -> Tape:
        if self._tape is None:
            raise RecordingError("nothing was recorded: call the model once inside `with record(model, adapter)`")
        return self._tape


@contextmanager
def record(model: nn.Module, adapter: Adapter) -> Iterator[Recording]:
    """Records the one call of `model` in its body; afterwards the model is as it was, also after an exception.

    Inside, the model is in evaluation mode with its parameters frozen; the graph starts at the first attention's
    residual input, wherever the caller or the model has switched gradients off. Raises RecordingError, naming the
    module, unless every module of the adapter yields one attention a call and no attention happens elsewhere.
    """
    _refuse(model)
    recording = Recording()
    with ExitStack() as stack:
        stack.enter_context(_same_random_numbers(model))
        stack.enter_context(_evaluation(model))
        run = stack.enter_context(_Pass(model, adapter, recording))
        for handle in run.hooks():
            stack.callback(handle.remove)
        yield recording


class _Watch(TorchFunctionMode):
    """Replaces attention by attention written out, and shows `run` its probabilities."""

    def __init__(self, run: "_Pass") -> None:
        super().__init__()
        self.run = run

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch._C._set_grad_enabled:  # a frozen part under no_grad is explained too
            return None
        if func is F.scaled_dot_product_attention:
            return scaled_dot_product(self.run.see, *args, **kwargs)
        if func is F.multi_head_attention_forward:
            return multi_head(self.run.see, *args, **kwargs)
        result = func(*args, **kwargs)
        if func in _SOFTMAX and self.run.inside:
            self.run.see(result)
        return result


class _Pass(ExitStack):
    """The hooks of one recording. It is itself the stack of contexts that hold while the model runs."""

    def __init__(self, model: nn.Module, adapter: Adapter, recording: Recording) -> None:
        super().__init__()
        self.model, self.adapter, self.recording = model, adapter, recording
        self.captured = Captured(defaultdict(list), defaultdict(list), defaultdict(list))
        self.inside: list[tuple[str, list[Tensor]]] = []  # attention modules now running, with what they have shown
        self.inputs: dict[str, Any] = {}

    def hooks(self) -> Iterator[Any]:
        yield self.model.register_forward_pre_hook(self._start, with_kwargs=True)
        for name in dict.fromkeys(site.module for site in self.adapter.sites):
            yield self._module(name).register_forward_pre_hook(
                lambda m, args, name=name: self.inside.append((name, []))
            )
            yield self._module(name).register_forward_hook(self._left)
        for name in dict.fromkeys(site.residual for site in self.adapter.sites):
            take = _residual_into(self.captured.residual[name])
            yield self._module(name).register_forward_pre_hook(take, with_kwargs=True)
        for name in dict.fromkeys(site.output for site in self.adapter.sites):
            yield self._module(name).register_forward_hook(_output_into(self.captured.output[name]))
        yield self.model.register_forward_hook(self._finish, always_call=True)

    def see(self, probabilities: Tensor) -> None:
        if not self.inside:
            raise RecordingError(
                "an attention ran outside all modules that the adapter names; add its module to the adapter"
            )
        self.inside[-1][1].append(probabilities)

    def _module(self, name: str) -> nn.Module:
        try:
            return self.model.get_submodule(name)
        except AttributeError as error:
            raise RecordingError(
                f"the adapter names module {name!r}, which {type(self.model).__name__} has not"
            ) from error

    def _start(self, model: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        if self.inputs:
            raise RecordingError(f"{type(model).__name__} was called twice; one recording covers one forward pass")
        self.enter_context(torch.inference_mode(False))
        self.enter_context(torch.enable_grad())
        args, kwargs = tree_map(_own, (args, kwargs))
        self.inputs = dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments)
        self.enter_context(_Watch(self))
        return args, kwargs

    def _left(self, module: nn.Module, args: tuple, output: Any) -> None:
        name, seen = self.inside.pop()
        if len(seen) != 1:
            raise RecordingError(
                f"module {name!r} computed {len(seen)} attentions in one call and must compute one; name the innermost "
                "module around it, with an attention that torch or a softmax computes"
            )
        self.captured.attention[name].append(seen[0])

    def _finish(self, model: nn.Module, args: tuple, output: Any) -> None:
        self.close()
        if output is not None:  # None: the model raised
            self.recording._tape = assemble(self.adapter, self.captured, self.inputs, output)


def _own(value: Any) -> Any:
    """Tensors of our own, so that a mark on them is not seen by the caller."""
    if not isinstance(value, Tensor):
        return value
    return value.clone() if value.is_inference() else value.detach()


def _residual_into(found: list[Tensor]) -> Any:
    def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
        tensor = args[0] if args else next(iter(kwargs.values()))
        if not tensor.requires_grad:
            tensor.requires_grad_()  # in place: the skip connection may take the same tensor past this module
        found.append(tensor)

    return hook


def _output_into(found: list[Tensor]) -> Any:
    def hook(module: nn.Module, args: tuple, output: Any) -> None:
        found.append(output if isinstance(output, Tensor) else output[0])

    return hook


def _refuse(model: nn.Module) -> None:
    for name, module in model.named_modules():
        for flag in ("gradient_checkpointing", "grad_checkpointing"):
            if getattr(module, flag, False) is True:
                raise RecordingError(
                    f"module {name or type(model).__name__!r} uses activation checkpointing ({flag}), which hides its "
                    "attention; switch it off before explaining"
                )


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and frozen parameters; each module and parameter gets its own back."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval().requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def _same_random_numbers(model: nn.Module) -> Iterator[None]:
    cards = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    with torch.random.fork_rng(devices=list(cards)):
        yield

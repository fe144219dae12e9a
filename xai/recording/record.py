"""Recording: one forward pass of a stock model, with every attention that its adapter names laid on a recording."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from xai.lrp.propagation import Propagation
from xai.lrp.ruling import Ruling
from xai.recording.adapter import Adapter
from xai.recording.assemble import (
    Captured,
    Caught,
    RecordingError,
    assemble,
    by_module,
    pixels_of,
    refuse_checkpointing,
)
from xai.recording.checks import check_model
from xai.recording.deformable import deformable_shown
from xai.recording.event import QKV
from xai.recording.head import Seen
from xai.recording.hooks import output_into, residual_into, shape_of
from xai.recording.places import Calls, Place, arguments_of, placed_of, samples_of
from xai.recording.reads import Needs, Reads, as_reads, plan
from xai.recording.recording import Recording
from xai.recording.rerun import Call, autocast_of, rerun
from xai.recording.unchanged import evaluation, modules_of, same_random_numbers
from xai.recording.watch import ATTENTION, SOFTMAX, Watch
from xai.recording.without import without

_MOVES = ("View", "UnsafeView", "ReshapeAlias", "Transpose", "Permute", "Clone", "ToCopy")  # of data, in the graph
ANEW = "find it anew for inputs like these: adapter_for(model, inputs)"


class Recorder:
    """What `record` yields; `recording` is there after the forward pass."""

    def __init__(self) -> None:
        self._recording: Recording | None = None

    @property
    def recording(self) -> Recording:
        if self._recording is None:
            raise RecordingError("nothing was recorded: call the model once inside `with record(model, adapter)`")
        return self._recording

    @property
    def tape(self) -> Recording:
        """The recording, by its name until 0.1."""
        return self.recording


@contextmanager
def record(model: nn.Module, adapter: Adapter, lrp: Needs = None) -> Iterator[Recorder]:
    """Records the one call of `model` in its body; afterwards the model is as it was, also after an exception.

    Inside, the model is in evaluation mode with its parameters frozen; the graph starts at the first attention's
    residual input, wherever the caller or the model has switched gradients off.

    Args:
        model: an attention model as its library has it.
        adapter: where its attentions are; `adapter_for(model)` has it for known families.
        lrp: makes the graph carry relevance too, from the target to the "tokens" or on to the "pixels"; every operation must
            have a rule then. None for methods without rules. In its place what is read of the recording, `METHODS[name].needs()`,
            which says that too: then it keeps no more, where else it serves all methods.

    Yields:
        A recorder, whose `recording` is there after the call.

    Raises:
        TypeError, ValueError: no module of torch's, or called with what is no batch of tensors, as of `explain`.
        RecordingError: a module of the adapter that does not compute one attention a call, or an attention elsewhere; names
            the module.
        PropagationError: with `lrp`, an operation that has no rule.

    Example:
        >>> import torch
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> from xai import adapter_for, record
        >>> sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
        >>> model = ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, **sizes))
        >>> with record(model, adapter_for(model)) as recorder:
        ...     logits = model(torch.rand(1, 3, 32, 32)).logits
        >>> recorder.recording.events[0].A.shape  # samples, heads, queries, keys: the class token and 16 patches
        torch.Size([1, 2, 17, 17])
    """
    check_model(model)
    refuse_checkpointing(model)
    recorder = Recorder()
    with ExitStack() as stack:
        stack.enter_context(same_random_numbers(model))
        stack.enter_context(evaluation(model))
        kind = _PlacedPass if adapter.places else _Pass
        run = stack.enter_context(kind(model, adapter, recorder, as_reads(lrp)))
        for handle in run.hooks():
            stack.callback(handle.remove)
        yield recorder


class _Pass(ExitStack):
    """The hooks of one recording. It is itself the stack of contexts that hold while the model runs."""

    counted = False  # whether each call of a torch function has a place

    def __init__(self, model: nn.Module, adapter: Adapter, recorder: Recorder, reads: Reads) -> None:
        super().__init__()
        self.reads, self.plan = reads, plan(adapter, reads)
        self.ruling = (
            None
            if reads.lrp is None
            else Ruling(Propagation(reads.rules), "pixels" if reads.lrp == "pixels" else "blocks")
        )
        self.pixels: Tensor | None = None
        self.model, self.adapter, self.recorder = model, adapter, recorder
        self.modules = modules_of(model)
        self.sites = self._sites("module")
        self.captured = Captured(defaultdict(list), defaultdict(list), defaultdict(list))
        self.inside: list[tuple[str, list[tuple[Tensor, QKV | None]]]] = []  # modules now running, what they show
        self.inputs: dict[str, Any] = {}
        self.call: Call | None = None
        self.qkv: QKV | None = None  # of the attention last seen, until its output projection is seen
        self.mixed: Any = None  # the node of the graph that made what is projected
        self.seen_head = Seen(model)

    def hooks(self) -> Iterator[Any]:
        if self.ruling is not None:
            yield from self.ruling.hooks(self.model)
        yield from self.hooks_on_parts()
        yield from self.seen_head.hooks()
        yield self.model.register_forward_pre_hook(self._start, with_kwargs=True)
        yield self.model.register_forward_hook(self._finish, always_call=True)

    def hooks_on_parts(self) -> Iterator[Any]:
        """Those that catch what the adapter names."""
        for name in self.sites:
            yield self._module(name).register_forward_pre_hook(
                lambda m, args, name=name: self.inside.append((name, []))
            )
            yield self._module(name).register_forward_hook(self._left)
        for name, sites in self._sites("residual").items():
            begins, kept = (self.plan.calls(kind, sites) for kind in ("begins", "Y"))
            take = residual_into(self.captured.residual[name], begins, kept)
            yield self._module(name).register_forward_pre_hook(take, with_kwargs=True)
        for name, sites in self._sites("output").items():
            give = output_into(self.captured.output[name], self.plan.calls("Y_out", sites))
            yield self._module(name).register_forward_hook(give)

    def _sites(self, role: str) -> dict[str, list[int]]:
        """The numbers of the sites that name a module, by module."""
        found: defaultdict[str, list[int]] = defaultdict(list)
        for number, site in enumerate(self.adapter.sites):
            found[getattr(site, role)].append(number)
        return found

    def is_attention(self, func: Any) -> bool:
        """Whether the call now happening is an attention to catch."""
        return func in ATTENTION or bool(self.inside)

    def is_map(self, func: Any) -> bool:
        """Whether the call gives the map of an attention."""
        return func in SOFTMAX and self.is_attention(func)

    def see_softmax(self, probabilities: Tensor) -> Tensor:
        self.see(probabilities)
        return probabilities

    def see(self, probabilities: Tensor, qkv: QKV | None = None) -> None:
        if not self.inside:
            raise RecordingError(
                "an attention ran outside all modules that the adapter names; add its module to the adapter"
            )
        self.inside[-1][1].append((probabilities, qkv))
        self.qkv, self.mixed = qkv, None

    def see_projection(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        """A linear map of what an attention gave, which was only moved since, is its output projection."""
        if self.qkv is None or self.mixed is None:
            return
        node = x.grad_fn
        while node is not None and node is not self.mixed and node.name().removesuffix("Backward0") in _MOVES:
            node = node.next_functions[0][0]
        if node is self.mixed:
            self.qkv.projection, self.qkv.bias = weight, bias
            self.qkv, self.mixed = None, None

    def _module(self, name: str) -> nn.Module:
        try:
            return self.modules[name]
        except KeyError as error:
            raise RecordingError(
                f"the adapter names module {name!r}, which {type(self.model).__name__} has not"
            ) from error

    def _start(self, model: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        if self.inputs:
            raise RecordingError(f"{type(model).__name__} was called twice; one recording covers one forward pass")
        self.enter_context(torch.inference_mode(False))
        self.enter_context(torch.enable_grad())
        self.enter_context(deformable_shown(model))
        args, kwargs = tree_map(_own, (args, kwargs))
        self.call = Call(model, args, kwargs, autocast_of(model))
        self.inputs = arguments_of(model, args, kwargs)
        self.started()
        if self.ruling is not None and self.ruling.stage == "pixels":
            self.pixels = pixels_of(self.inputs).requires_grad_()
        self.enter_context(Watch(self, self.plan.written, self.ruling))
        return args, kwargs

    def started(self) -> None:
        """The model's arguments are known."""

    def kept(self, seen: tuple[Tensor, QKV | None], site: int | None) -> tuple[Tensor, QKV | None]:
        """What is kept of a site's attention, None for one too many; of a map that nobody reads its shape."""
        A, qkv = seen
        return A if site in self.plan.kept["A"] else shape_of(A), qkv if site in self.plan.kept["qkv"] else None

    def caught(self) -> list[Caught]:
        """What was caught of each site."""
        return by_module(self.adapter, self.captured)

    def _left(self, module: nn.Module, args: tuple, output: Any) -> None:
        name, seen = self.inside.pop()
        if len(seen) != 1:
            raise RecordingError(
                f"module {name!r} computed {len(seen)} attentions in one call and must compute one; name the innermost "
                "module around it, with an attention that torch or a softmax computes"
            )
        calls, sites = self.captured.attention[name], self.sites[name]
        calls.append(self.kept(seen[0], sites[len(calls)] if len(calls) < len(sites) else None))

    def _finish(self, model: nn.Module, args: tuple, output: Any) -> None:
        self.close()
        if output is not None and self.call is not None:  # None: the model raised
            recording = assemble(self.adapter, self.caught(), self.inputs, output, self.reads, self.plan)
            self.seen_head.finish(recording.events, output)
            again = partial(rerun, self.call, self.adapter, len(recording.mask), recording.modalities)
            propagation = None if self.ruling is None else self.ruling.propagation
            heads = partial(self.adapter.heads or self.seen_head.heads, self.inputs)
            recording = replace(recording, rerun=again, propagation=propagation, pixels=self.pixels, find_heads=heads)
            less = partial(without, self.call, self.adapter, recording)
            self.recorder._recording = replace(recording, without=less, suppressed=less)


class _PlacedPass(_Pass):
    """Of an adapter whose sites have places."""

    counted = True

    def __init__(self, model: nn.Module, adapter: Adapter, recorder: Recorder, reads: Reads) -> None:
        super().__init__(model, adapter, recorder, reads)
        self.calls, self.placed, self.place = Calls(), placed_of(adapter.places, self.plan), Place("", "", 0)
        attentions = [
            (place, number, 1 if site.windows is None else site.windows.count(call))
            for number, site in enumerate(adapter.sites)
            for call, place in enumerate(site.places.attentions if site.places else ())
        ]
        self.windows = {place: count for place, _, count in attentions}  # of each attention, how many of a sample
        self.numbers = {place: number for place, number, _ in attentions}  # and of which site it is
        self.seen: dict[Place, tuple[Tensor, QKV | None]] = {}

    def hooks_on_parts(self) -> Iterator[Any]:
        yield from self.calls.hooks(self.model)

    def calling(self, func: Any) -> None:
        """A torch function is about to be called."""
        self.place = self.calls.place(func)

    def called(self, result: Any) -> Any:
        """What the model gets of the call's result."""
        return self.placed.see(self.place, result)

    def is_attention(self, func: Any) -> bool:
        known = self.place in self.windows
        if func in ATTENTION and not known and self.place not in self.adapter.unread:
            raise RecordingError(f"{self.place} is an attention that the adapter does not know; {ANEW}")
        return known

    def is_map(self, func: Any) -> bool:
        return self.place in self.windows and func not in ATTENTION

    def see(self, probabilities: Tensor, qkv: QKV | None = None) -> None:
        number = self.numbers[self.place]
        if (
            self.plan.differentiated
            and number in self.plan.begins & self.plan.kept["A"]
            and not probabilities.requires_grad
        ):
            probabilities.requires_grad_()  # of a query that is a parameter, and keys of layers that are not read
        self.seen[self.place] = self.kept((probabilities, qkv), number)
        self.qkv, self.mixed = qkv, None

    def see_softmax(self, probabilities: Tensor) -> Tensor:
        if probabilities.dim() == 4:
            return super().see_softmax(probabilities)
        batch = samples_of(self.inputs) * self.windows[self.place]
        if len(probabilities) % batch:
            raise RecordingError(f"{self.place}: attention of shape {list(probabilities.shape)} in a batch of {batch}")
        apart = probabilities.unflatten(0, (batch, -1))  # [B H, q, k]
        return super().see_softmax(apart).flatten(0, 1)

    def started(self) -> None:
        self.placed.see_arguments(self.inputs)

    def caught(self) -> list[Caught]:
        found = []
        for places in self.adapter.places:
            for place in places.attentions:
                if place not in self.seen:
                    raise RecordingError(f"{place} did not happen, where the adapter has an attention; {ANEW}")
            found.append(([self.seen[place] for place in places.attentions], *self.placed.of(places)))
        return found


def _own(value: Any) -> Any:
    """Tensors of our own, so that a mark on them is not seen by the caller."""
    if not isinstance(value, Tensor):
        return value
    return value.clone() if value.is_inference() else value.detach()

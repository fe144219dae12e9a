"""How a model ends, token by token: the last norm and projection, which read a state after any layer as they do the last."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from xai.recording.unchanged import evaluation, modules_of

Said = Callable[[Tensor, Any], Any]
# nodes of the graph that add states, or only move them
_ADDS = ("Add", "View", "UnsafeView", "ReshapeAlias", "Transpose", "Permute", "Clone", "ToCopy", "Slice", "Alias")


@dataclass(frozen=True, eq=False)
class Head:
    """The last norm and the projection of a stream of tokens.

    Attributes:
        model: the whole, which is put into evaluation mode while it reads.
        attentions: modules of those that add to the states it reads.
        norm: from states [*, D] to features [*, D].
        project: from features to what is said of them, [*, E]: logits or embeddings.
        said: (what is said, the outputs of the pass) to those outputs with it in their place.
        pooled: whether one state of a sample is read; else every token's.
        unit: whether embeddings are brought to length 1, as a dual encoder's, before they are among the outputs.
        forward: what follows the last attention with its skip connection, from Y + Y_out; None if `last` is known.
        last: the states after the last layer as the pass had them, [B, T, D].
        tokens: which of what is said each token of the stream is itself, [B, T], -1 for none; None if that is not known.
    """

    model: nn.Module
    attentions: frozenset[str]
    norm: Callable[[Tensor], Tensor]
    project: Callable[[Tensor], Tensor]
    said: Said
    pooled: bool = False
    unit: bool = False
    forward: Callable[[Tensor], Tensor] | None = None
    last: Tensor | None = None
    tokens: Tensor | None = None

    def features(self, states: Tensor) -> Tensor:
        with evaluation(self.model):
            return self.norm(states)

    def read(self, states: Tensor) -> Tensor:
        """What is said of states [*, D], of length 1 if outputs have it so, [*, E]."""
        with evaluation(self.model):
            read = self.project(self.norm(states))
        return nn.functional.normalize(read, dim=-1) if self.unit else read

    def after(self, Y: Tensor, Y_out: Tensor) -> Tensor:
        """The states after the last layer, from the tensors of its attention."""
        if self.last is not None:
            return self.last
        assert self.forward is not None
        with evaluation(self.model):
            return self.forward(Y + Y_out)


def as_logits(read: Tensor, output: Any) -> Any:
    """Outputs with other logits."""
    if isinstance(output, Tensor):
        return read
    other = copy(output)
    other["logits"] = read
    return other


class Seen:
    """Watches, in one pass of a generative model, which norm's output its output embedding takes."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.projection = model, _projection(model)
        self.normed: list[tuple[nn.Module, Tensor, Tensor]] = []  # the last call of each norm: states and features
        self.read: tuple[nn.Module, Tensor] | None = None
        self.events: Sequence[Any] = ()
        self.output: Any = None

    def hooks(self) -> Iterator[RemovableHandle]:
        if not isinstance(self.projection, nn.Module):
            return
        for module in modules_of(self.model).values():
            own = [parameter for parameter in module._parameters.values() if parameter is not None]
            if own and all(parameter.dim() == 1 for parameter in own) and not module._modules:
                yield module.register_forward_hook(self._norm)
        yield self.projection.register_forward_pre_hook(self._project)

    def _norm(self, module: nn.Module, args: tuple, output: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            kept = [one for one in self.normed if one[0] is not module]
            self.normed = [*kept[-7:], (module, args[0], output)]

    def _project(self, module: nn.Module, args: tuple) -> None:
        same = [
            (norm, states)
            for norm, states, features in self.normed
            if features.data_ptr() == args[0].data_ptr() and states.shape == features.shape == args[0].shape
        ]
        self.read, self.normed = same[-1] if same else None, []

    def finish(self, events: Sequence[Any], output: Any) -> None:
        """Takes the attentions of the pass and what it gave."""
        self.events, self.output = events, output

    def heads(self, inputs: Mapping[str, Any]) -> tuple[Head, ...]:
        """The head, if the logits are the projection of a norm of a sum to which attentions add; else none."""
        if self.read is None or not isinstance(self.projection, nn.Module):
            return ()
        norm, states = self.read
        logits = self.output if isinstance(self.output, Tensor) else getattr(self.output, "logits", None)
        added = _added(states)
        inside = [event for event in self.events if _node(event.in_graph.Y) in added]
        if not inside or logits is None or any(event.windows is not None for event in inside):
            return ()
        attentions = frozenset(event.module for event in inside)
        ids = (inputs.get(name) for name in ("decoder_input_ids", "input_ids"))
        tokens = next((t for t in ids if isinstance(t, Tensor) and t.shape == states.shape[:2]), None)
        head = Head(self.model, attentions, norm, self.projection, as_logits, last=states, tokens=tokens)
        with torch.no_grad():
            found = head.read(states)
        close = found.shape == logits.shape and torch.allclose(found, logits, rtol=1e-3, atol=1e-3)
        return (head,) if close else ()


def _projection(model: Any) -> Any:
    try:
        return model.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        return None


def _node(tensor: Tensor) -> Any:
    """What made a tensor of the graph; a leaf itself."""
    return id(tensor) if tensor.grad_fn is None else tensor.grad_fn


def _added(states: Tensor) -> set[Any]:
    """Nodes of the tensors that states are the sum of, and those of the sums on the way."""
    found, waiting = set(), [states.grad_fn]
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in found:
            continue
        found.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        name, others = (
            node.name().removesuffix("0").removesuffix("Backward"),
            [other for other, _ in node.next_functions],
        )
        if name in _ADDS:
            waiting += others
        if name == "_Ruled":  # an operation of a pass with rules; the first of what it takes is its own result
            waiting += others[:1]
    return found

"""One attention of a recording, and the gradients by what it computed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from xai.recording.axis import Positions, Windows, index_of, tokens_of, within
from xai.recording.turns import Turns

MASKED = 1e-30  # what a mask of -100, as Swin's, leaves of a probability is less
MEANS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {  # over heads, of what is made of A and its gradient
    "evidence": lambda A, slope: (slope * A).relu_(),  # GenAtt eq. 5
    "sensitivity": lambda A, slope: slope.relu().mul_(A > 0),  # LeGrad
}


@dataclass(eq=False)
class QKV:
    """What goes into an attention, [B, H, q or k, D / H], and weight [D, D] and bias of the projection that follows."""

    query: Tensor
    key: Tensor
    value: Tensor
    projection: Tensor | None = None
    bias: Tensor | None = None  # [D], of that projection


@dataclass(frozen=True, eq=False)
class InGraph:
    """The tensors of one attention as the model has them: A of each call, Y and Y_out of any axes before the last.

    One that was not kept is refused by name.
    """

    # "A", "Y" and "Y_out", as far as they are; of the last two one tensor; of gradients also MEANS of each call
    kept: Mapping[str, tuple[Tensor, ...]]

    @property
    def A(self) -> tuple[Tensor, ...]:
        return self._parts("A")

    @property
    def Y(self) -> Tensor:
        return self._parts("Y")[0]

    @property
    def Y_out(self) -> Tensor:
        return self._parts("Y_out")[0]

    def _parts(self, kind: str) -> tuple[Tensor, ...]:
        if kind not in self.kept:
            raise ValueError(
                f"{kind} was not kept: the pass was recorded for methods that do not read it. Record without `reads`, or with "
                "what your method reads"
            )
        return self.kept[kind]


@dataclass(frozen=True, eq=False)
class Event:
    """One attention: `queries` read `keys`, which are the same tokens (self-attention) or other ones."""

    module: str
    queries: slice
    keys: slice
    in_graph: InGraph
    qkv: QKV | None = None  # None: the model computes its softmax in plain code, which does not show them
    windows: Windows | None = None  # None: every query may attend to every key
    turns: Turns | None = None  # of rows that share the samples of the pass
    dtype: torch.dtype | None = None  # of maps, where the model's attentions have several; None: its own

    @property
    def A(self) -> Tensor:
        """Probabilities [B, H, q, k]; 0 outside of a query's window, and where a window's mask leaves less than 1e-30."""
        return self._repeated(self._laid([self._shown(A) for A in self.in_graph.A]))

    @property
    def Y(self) -> Tensor:
        """What the skip connection carries [B, q, D]."""
        return self._repeated(self._tokens(self.in_graph.Y))

    @property
    def Y_out(self) -> Tensor:
        """What the attention adds to it, after the output projection [B, q, D]."""
        return self._repeated(self._tokens(self.in_graph.Y_out))

    def mean(self, kind: str, A: Tensor, slope: Tensor) -> Tensor:
        """One of MEANS of one call, [..., 1, q, k] from its probabilities and their gradient [..., H, q, k]."""
        A, slope = (x if self.dtype is None else x.to(self.dtype) for x in (self._shown(A).detach(), slope))
        return MEANS[kind](A, slope).mean(dim=-3, keepdim=True)

    def maps(self, parts: Sequence[Tensor]) -> Tensor:
        """What came back to the probabilities of each call, by turns if there are any, as one map [B, H, q, k]."""
        if self.turns is None:
            return self._laid(parts)
        return self.turns.rows(self._laid([part.flatten(0, 1) for part in parts]))

    def state(self, values: Tensor) -> Tensor:
        """What came back to a state as the model has it, by turns if there are any, as [B, q, D]."""
        return self._tokens(values) if self.turns is None else self.turns.rows(self._tokens(values.flatten(0, 1)))

    def _repeated(self, values: Tensor) -> Tensor:
        return values if self.turns is None else self.turns.repeated(values)

    def _shown(self, A: Tensor) -> Tensor:
        return A if self.windows is None else A.detach().masked_fill(A.abs() < MASKED, 0)

    def _laid(self, parts: Sequence[Tensor]) -> Tensor:
        laid = parts[0] if self.windows is None else self.windows.maps(parts)
        return laid if self.dtype is None else laid.to(self.dtype)

    def _tokens(self, state: Tensor) -> Tensor:
        return tokens_of(state, len(state) // (1 if self.windows is None else self.windows.states))

    @property
    def is_self(self) -> bool:
        """Whether its queries are among its keys: self-attention, also that of some tokens alone, as class attention."""
        return self.keys.start <= self.queries.start and self.queries.stop <= self.keys.stop

    @property
    def itself(self) -> Tensor:
        """[q, k], 1 where a key is the query itself."""
        like = self.in_graph.A[0]
        same = index_of(self.queries)[:, None] == index_of(self.keys)
        return same.to(like.device, self.dtype or like.dtype)

    def rows(self, tokens: Positions) -> Positions | None:
        """Which of the event's queries are these tokens of the joint axis; None if they are not among them."""
        return within(tokens, self.queries)


@dataclass(frozen=True, eq=False)
class Gradient:
    """The target's gradient by an event's tensors; zeros where the event is not `reached`, not on a way to the target."""

    event: Event
    in_graph: InGraph
    reached: bool

    @property
    def A(self) -> Tensor:
        return self.event.maps(self.in_graph.A)

    @property
    def evidence(self) -> Tensor:
        """E_h (∇A ⊙ A)⁺ [B, q, k]."""
        return self._mean("evidence")

    @property
    def sensitivity(self) -> Tensor:
        """E_h (∇A)⁺ [B, q, k] where there is attention."""
        return self._mean("sensitivity")

    @property
    def Y(self) -> Tensor:
        return self.event.state(self.in_graph.Y)

    @property
    def Y_out(self) -> Tensor:
        return self.event.state(self.in_graph.Y_out)

    def _mean(self, kind: str) -> Tensor:
        """As it was kept, or else from the gradient."""
        parts = self.in_graph.kept.get(kind)
        if parts is None:
            parts = tuple(map(partial(self.event.mean, kind), self.event.in_graph.A, self.in_graph.A))
        return self.event.maps(parts).squeeze(1)


Gradients = Mapping[Event, Gradient]

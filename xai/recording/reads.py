"""What is read of a recording, so that a pass keeps no more, and starts its graph no earlier."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Literal, TypeVar

from xai.recording.event import MEANS

if TYPE_CHECKING:
    from xai.lrp.propagation import Rules
    from xai.recording.adapter import Adapter

T = TypeVar("T")
Lrp = Literal["tokens", "pixels"] | None  # where the rules for relevance end
KINDS = {  # in the words of a method's card
    "A": "maps",
    "qkv": "queries, keys and values",
    "inputs": "embeddings",
    "Y": "residual states",
    "Y_out": "outputs of attention",
    **dict.fromkeys(MEANS, "maps (mean over heads)"),
}


@dataclass(frozen=True)
class Reads:
    """What a method reads of a recording.

    Attributes:
        tensors: of every attention: its map "A", what goes into it "qkv", the residual state before it "Y", what it adds to that
            "Y_out"; "inputs" is Y of the first attention of each modality alone.
        gradients: those of "A", "Y", "Y_out" and "inputs" by which a target is differentiated, or relevance carried back to.
            "evidence" and "sensitivity" are made of the gradient by A, which goes as they come: E_h (∇A ⊙ A)⁺ and E_h (∇A)⁺.
            Without any, the graph begins at the last attentions: it tells which rows a target reads.
        last: how many layers, from the end, are read; None for all.
        lrp: where rules for relevance end; None for a pass without rules.
        once: whether there is one backward pass, with which the graph may go.
        rules: the one table of rules by which that pass sends relevance back, so that the graph has no gradients; None for all
            tables, and gradients.

    Example:
        >>> from xai.explainers.registry import method_named
        >>> str(method_named("genatt").needs())
        'maps; gradients by maps (mean over heads)'
    """

    tensors: frozenset[str] = frozenset({"A", "qkv", "Y", "Y_out"})
    gradients: frozenset[str] = frozenset({"A", "Y", "Y_out"})
    last: int | None = None
    lrp: Lrp = None
    once: bool = False
    rules: Rules | None = None

    def __post_init__(self) -> None:
        if unknown := (self.tensors | self.gradients) - KINDS.keys():
            raise ValueError(f"a recording has no {', '.join(sorted(unknown))}; give some of {', '.join(KINDS)}")

    def __str__(self) -> str:
        def words(kinds: frozenset[str]) -> str:
            return ", ".join(word for kind, word in KINDS.items() if kind in kinds)

        slopes = f"{'gradients by' if self.lrp is None else 'relevance of'} {words(self.gradients)}"
        return "; ".join(part for part in (words(self.tensors), slopes if self.gradients else "") if part) or "nothing"

    def __or__(self, other: Reads) -> Reads:
        """Returns what both read together; the graph has to stay for the other's backward pass."""
        last = None if self.last is None or other.last is None else max(self.last, other.last)
        lrp: Lrp = "pixels" if "pixels" in (self.lrp, other.lrp) else self.lrp or other.lrp
        return Reads(self.tensors | other.tensors, self.gradients | other.gradients, last, lrp)

    def has(self, kind: str, first: bool) -> bool:
        """Returns whether a tensor of an attention is kept, which may be the `first` of a modality."""
        inputs = kind == "Y" and first and "inputs" in self.tensors
        return kind in self.tensors or inputs or bool(self.slopes(kind, first))

    def slopes(self, kind: str, first: bool) -> tuple[str, ...]:
        """Returns what is kept of the gradient by a tensor of an attention, which may be the `first` of a modality."""
        if kind in self.gradients or (kind == "Y" and first and "inputs" in self.gradients):
            return (kind,)
        return tuple(mean for mean in MEANS if mean in self.gradients) if kind == "A" else ()


EVERYTHING = Reads()


def reads(*tensors: str, gradients: Iterable[str] = (), once: bool = True) -> Reads:
    """Returns what a method reads: tensors, gradients, and whether in one backward pass."""
    return Reads(frozenset(tensors), frozenset(gradients), once=once)


Needs = Lrp | Reads  # how it may be given


def as_reads(value: Needs) -> Reads:
    """Returns what is read; of where rules end, everything, with them."""
    return value if isinstance(value, Reads) else replace(EVERYTHING, lrp=value)


def together(parts: Iterable[Reads]) -> Reads:
    """Returns what several read together; one that is alone keeps its graph too."""
    return replace(reduce(Reads.__or__, parts), once=False, rules=None)


def first_layer(layers: int, wanted: Reads) -> int:
    """Returns the first of so many layers that is read; a number of layers that there is not is refused by the method itself."""
    return layers - wanted.last if wanted.last is not None and 1 <= wanted.last <= layers and wanted.lrp is None else 0


@dataclass(frozen=True)
class Plan:
    """What a pass has to do, and keeps, at an adapter's sites, which are numbered in their order.

    Attributes:
        begins: where the residual state begins a graph, which is where gradients end.
        kept: by kind of tensor, where it is kept.
        written: whether attention is written out.
        differentiated: whether gradients, or relevance, are carried back beyond the rows that a target reads.
    """

    begins: frozenset[int]
    kept: Mapping[str, frozenset[int]]
    written: bool
    differentiated: bool

    def calls(self, kind: str, sites: Sequence[int]) -> frozenset[int]:
        """Returns at which calls of a module, of the sites it has, a graph "begins", or a kind of tensor is kept."""
        numbers = self.begins if kind == "begins" else self.kept[kind]
        return frozenset(call for call, number in enumerate(sites) if number in numbers)


def plan(adapter: Adapter, wanted: Reads) -> Plan:
    """Returns what a pass with this adapter has to keep. Whatever is read, the last attention of each stream has its output."""
    numbers = iter(range(len(adapter.sites)))
    layers = [[next(numbers) for _ in sites] for sites in adapter.layers]
    start = first_layer(len(layers), wanted)
    read = [number for some in layers[start:] for number in some]
    sites, first = adapter.sites, _firsts(adapter)
    names = {name for site in sites for name in (*site.queries, *site.keys)}
    last = last_of(
        layers,
        names,
        lambda number, name: name in sites[number].queries,
        lambda number, name: name in sites[number].keys,
    )
    ends = set(last.values())
    differentiated = wanted.lrp is not None or bool(wanted.gradients)
    kept = {
        kind: {number for number in read if wanted.has(kind, number in first)} for kind in ("A", "qkv", "Y", "Y_out")
    }
    kept["Y_out"] |= ends
    kept["A"] |= set(range(len(adapter.sites))) if adapter.see_padding else set()
    written = wanted.lrp is not None or bool(kept["A"] or kept["qkv"])
    begins = frozenset([*ends, *(read if differentiated else ())])
    return Plan(begins, {kind: frozenset(some) for kind, some in kept.items()}, written, differentiated)


def _firsts(adapter: Adapter) -> set[int]:
    """Returns the first attention of each modality."""
    first: dict[str, int] = {}
    for number, site in enumerate(adapter.sites):
        for name in site.queries:
            first.setdefault(name, number)
    return set(first.values())


def last_of(
    layers: Iterable[Sequence[T]],
    names: Iterable[str],
    queries: Callable[[T, str], bool],
    keys: Callable[[T, str], bool],
) -> dict[str, T]:
    """Returns the last attention of each modality that no other one reads afterwards.

    Args:
        layers: of attentions, in their order.
        names: of the modalities.
        queries: whether a modality is among the queries of an attention.
        keys: whether it is among its keys.
    """
    by_layer, last = list(layers), dict[str, T]()
    for name in names:
        for layer in by_layer:
            own = [attention for attention in layer if queries(attention, name)]
            if own:
                last[name] = own[-1]
            elif any(keys(attention, name) for attention in layer):
                last.pop(name, None)
    return last

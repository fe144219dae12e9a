"""From what the hooks caught to a recording, with every doubt an error: silence would be a wrong explanation."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xai.recording.adapter import Adapter, Layout, Site, Stream
from xai.recording.axis import Positions
from xai.recording.recording import QKV, Event, Recording


class RecordingError(RuntimeError):
    """The model's attentions could not be recorded one for one."""


class Captured(NamedTuple):
    """By module name, what each of its calls showed: probabilities and what they come from, first argument, output."""

    attention: defaultdict[str, list[tuple[Tensor, QKV | None]]]
    residual: defaultdict[str, list[Tensor]]
    output: defaultdict[str, list[Tensor]]


Caught = tuple[tuple[Tensor, QKV | None], Tensor, Tensor]


def assemble(adapter: Adapter, tensors: list[Caught], inputs: Mapping[str, Any], output: Any) -> Recording:
    """The recording of one forward pass; raises RecordingError, naming the module that does not fit the adapter."""
    layout = adapter.layout(inputs, _sizes(adapter, tensors))
    spans = _slices(layout.lengths)
    first = tensors[0][0][0] if adapter.sites[0].sample is None else tensors[0][0][0][:1]
    layers, taken = [], iter(tensors)
    for layer in adapter.layers:
        events = tuple(_event(site, next(taken), spans, len(first)) for site in layer)
        layers.append(events)
    _check_grids(layout)
    modalities = _positions(adapter, layout, spans, first.device)
    readout, mask, special = _axis(layout, modalities, len(first), first)
    if adapter.see_padding:
        mask = mask & _attended(layers, mask)
    links = {name: replace(link, weights=link.weights.to(first)) for name, link in layout.links.items()}
    return Recording(tuple(layers), modalities, readout, mask, special, layout.grids, output, links=links)


def _check_calls(adapter: Adapter, captured: Captured) -> None:
    expected = Counter(site.module for site in adapter.sites)
    for module, calls in expected.items():
        found = len(captured.attention[module])
        if found != calls:
            raise RecordingError(f"module {module!r} computed attention {found} times; the adapter expects {calls}")


def by_module(adapter: Adapter, captured: Captured) -> list[Caught]:
    """((A, its origin), Y, Y_out) of each site: the n-th site that names a module takes its n-th call."""
    _check_calls(adapter, captured)
    used: Counter[tuple[str, str]] = Counter()

    def take(role: str, module: str) -> Any:
        calls = getattr(captured, role)[module]
        used[role, module] += 1
        if used[role, module] > len(calls):
            raise RecordingError(f"module {module!r} ({role}) was called {len(calls)} times; the adapter expects more")
        return calls[used[role, module] - 1]

    return [
        (take("attention", site.module), take("residual", site.residual), take("output", site.output))
        for site in adapter.sites
    ]


def _sizes(adapter: Adapter, tensors: list[Caught]) -> dict[Stream, int]:
    """Tokens of each stream."""
    sizes: dict[Stream, int] = {}
    for site, ((A, _), _, _) in zip(adapter.sites, tensors, strict=True):
        if A.dim() != 4:
            raise RecordingError(f"module {site.module!r}: attention has shape {list(A.shape)}, expected [B, H, q, k]")
        for stream, size in ((site.queries, A.shape[2]), (site.keys, A.shape[3])):
            if sizes.setdefault(stream, size) != size:
                raise RecordingError(
                    f"module {site.module!r}: {size} tokens of {'+'.join(stream)} where earlier layers had "
                    f"{sizes[stream]}; models that merge tokens (hierarchical ones such as Swin) cannot be explained "
                    "on one token axis"
                )
    return sizes


def _slices(lengths: dict[str, int]) -> dict[str, slice]:
    slices, start = {}, 0
    for name, length in lengths.items():
        slices[name] = slice(start, start + length)
        start += length
    return slices


def _positions(adapter: Adapter, layout: Layout, spans: dict[str, slice], device: torch.device) -> dict[str, Positions]:
    """Where the modalities are on the joint axis."""
    positions: dict[str, Positions] = dict(spans)
    for stream in {stream for site in adapter.sites for stream in (site.queries, site.keys)}:
        start = min(spans[name].start for name in stream)
        positions |= {name: start + layout.places[name].to(device) for name in stream if name in layout.places}
    return positions


def _event(site: Site, caught: Caught, spans: dict[str, slice], batch: int) -> Event:
    if site.sample is not None:
        return _one_of(site, caught, spans)
    (A, qkv), Y, Y_out = caught
    queries, keys = _span(site, site.queries, spans), _span(site, site.keys, spans)
    shape = (batch, queries.stop - queries.start, keys.stop - keys.start)
    if len(spans) > 1 and A.shape[0] != batch and tuple(A.shape[2:]) == shape[1:]:
        raise RecordingError(
            f"module {site.module!r}: a batch of {A.shape[0]} of {'+'.join(site.queries)}, where the first attention has one of "
            f"{batch}. Images and texts must be pairs, as many of each: repeat one to the number of the other"
        )
    if (A.shape[0], *A.shape[2:]) != shape:
        raise RecordingError(
            f"module {site.module!r}: attention has shape {list(A.shape)}, expected batch, queries and keys "
            f"{list(shape)}; attention in windows (hierarchical models such as Swin) cannot be explained on one token axis"
        )
    for role, module, tensor in (("residual", site.residual, Y), ("output", site.output, Y_out)):
        if tensor.shape[:2] != shape[:2] or tensor.dim() != 3:
            raise RecordingError(
                f"module {module!r} ({role}): shape {list(tensor.shape)}, expected {[*shape[:2], 'D']}"
            )
        if not tensor.requires_grad:
            raise RecordingError(f"module {module!r} ({role}) is off the graph; does the model detach it?")
    if not A.requires_grad:
        raise RecordingError(f"module {site.module!r}: attention is off the graph; does the model detach its inputs?")
    return Event(site.module, queries, keys, A, Y, Y_out, qkv)


def _one_of(site: Site, caught: Caught, spans: dict[str, slice]) -> Event:
    """The event of one image of those that are a batch of the attention, though they belong to one sample."""
    (A, qkv), Y, Y_out = caught
    event, n = _event(replace(site, sample=None), caught, spans, len(A)), site.sample
    assert n is not None
    one = slice(n, n + 1)
    parts = None if qkv is None else replace(qkv, query=qkv.query[one], key=qkv.key[one], value=qkv.value[one])
    return replace(event, A=A[one], Y=Y[one], Y_out=Y_out[one], qkv=parts, whole=(A, Y, Y_out), sample=n)


def _span(site: Site, stream: Stream, spans: dict[str, slice]) -> slice:
    parts = [spans[name] for name in stream]
    if any(a.stop != b.start for a, b in pairwise(parts)):
        raise RecordingError(
            f"module {site.module!r}: modalities {'+'.join(stream)} are not neighbours on the joint axis"
        )
    return slice(parts[0].start, parts[-1].stop)


def _check_grids(layout: Layout) -> None:
    for name, (rows, columns) in layout.grids.items():
        prefix = layout.special.get(name, torch.zeros(1, layout.lengths[name])).sum(dim=1)
        content = (layout.lengths[name] - prefix).tolist()
        if any(count != rows * columns for count in content):
            raise RecordingError(
                f"modality {name!r} has {content[0]:g} tokens that are not special, but the adapter's layout says a grid "
                f"of {rows} x {columns}"
            )


def _attended(layers: list[tuple[Event, ...]], mask: Tensor) -> Tensor:
    """Tokens [B, T] to which a real token attends in any layer; of those that are never keys, all."""
    attended, read = torch.zeros_like(mask), torch.zeros_like(mask)
    for event in (event for layer in layers for event in layer):
        real = (event.A.detach() > 0).any(dim=1) & mask[:, event.queries, None]
        attended[:, event.keys] |= real.any(dim=1)
        read[:, event.keys] = True
    return attended | ~read


def _axis(layout: Layout, modalities: dict[str, Positions], batch: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Read weights, real tokens and special tokens of the joint axis, each [B, T]."""

    def joint(values: Mapping[str, Tensor], otherwise: float, dtype: torch.dtype) -> Tensor:
        axis = torch.full((batch, sum(layout.lengths.values())), otherwise, dtype=dtype, device=like.device)
        for name, part in values.items():
            axis[:, modalities[name]] = part.to(like.device, dtype)
        return axis

    return joint(layout.readout, 0, like.dtype), joint(layout.mask, 1, torch.bool), joint(layout.special, 0, torch.bool)

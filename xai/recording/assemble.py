"""From what the hooks caught to a recording, with every doubt an error: silence would be a wrong explanation."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xai.recording.adapter import Adapter, Layout, Site, Stream
from xai.recording.axis import Positions
from xai.recording.event import QKV, Event, InGraph
from xai.recording.reads import Plan, Reads
from xai.recording.recording import Recording
from xai.recording.unchanged import modules_of


class RecordingError(RuntimeError):
    """The model's attentions could not be recorded one for one."""


class Captured(NamedTuple):
    """By module name, what each of its calls showed: probabilities and what they come from, first argument, output."""

    attention: defaultdict[str, list[tuple[Tensor, QKV | None]]]
    residual: defaultdict[str, list[Tensor]]
    output: defaultdict[str, list[Tensor]]


Caught = tuple[list[tuple[Tensor, QKV | None]], Tensor, Tensor]  # of each call of an attention, and of its states


def assemble(
    adapter: Adapter, tensors: list[Caught], inputs: Mapping[str, Any], output: Any, reads: Reads, plan: Plan
) -> Recording:
    """The recording of one forward pass; raises RecordingError, naming the module that does not fit the adapter."""
    layout = adapter.layout(inputs, _sizes(adapter, tensors))
    spans = _slices(layout.lengths)
    (first, _), batch = tensors[0][0][0], _batch(adapter.sites[0], tensors[0])
    layers, taken, dtype = [], iter(enumerate(tensors)), _finest(tensors)
    for layer in adapter.layers:
        layers.append(tuple(_event(site, *next(taken), spans, batch, dtype, plan) for site in layer))
    _check_grids(layout)
    modalities = _positions(adapter, layout, spans, first.device)
    readout, mask, special, learned = _axis(layout, modalities, batch, first.to(dtype))
    if adapter.see_padding:
        mask = mask & (_attended(layers, mask) | learned)
    links = {name: replace(link, weights=link.weights.to(first.device, dtype)) for name, link in layout.links.items()}
    return Recording(tuple(layers), modalities, readout, mask, special, layout.grids, output, links=links, reads=reads)


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
        ([take("attention", site.module)], take("residual", site.residual), take("output", site.output))
        for site in adapter.sites
    ]


def _batch(site: Site, caught: Caught) -> int:
    """Samples, as the first attention has them."""
    ((A, _), *_), Y, _ = caught
    return len(A) if site.windows is None else len(Y) // site.windows.states


def _sizes(adapter: Adapter, tensors: list[Caught]) -> dict[Stream, int]:
    """Tokens of each stream."""
    sizes: dict[Stream, int] = {}
    for site, (calls, Y, _) in zip(adapter.sites, tensors, strict=True):
        for A, _ in calls:
            if A.dim() != 4:
                raise RecordingError(
                    f"module {site.module!r}: attention has shape {list(A.shape)}, expected [B, H, q, k]"
                )
        queries, keys = calls[0][0].shape[2:]
        if site.windows is not None:
            queries, keys = Y.shape[:-1].numel() // _batch(site, (calls, Y, Y)), site.windows.shape[1]
        for stream, size in ((site.queries, queries), (site.keys, keys)):
            if sizes.setdefault(stream, size) != size:
                raise RecordingError(
                    f"module {site.module!r}: {size} tokens of {'+'.join(stream)} where earlier layers had "
                    f"{sizes[stream]}; tokens that are merged or chosen are a stream of their own (`Layout.links`), and "
                    "attention in windows is what `Site.windows` says"
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


def _finest(tensors: list[Caught]) -> torch.dtype:
    """The type that holds all attentions: a model may compute some of its softmaxes in single precision."""
    return reduce(torch.promote_types, (A.dtype for calls, *_ in tensors for A, _ in calls))


def _event(
    site: Site, number: int, caught: Caught, spans: dict[str, slice], batch: int, dtype: torch.dtype, plan: Plan
) -> Event:
    calls, Y, Y_out = caught
    queries, keys = _span(site, site.queries, spans), _span(site, site.keys, spans)
    _check_calls_of(site, calls, (batch, queries.stop - queries.start, keys.stop - keys.start), len(spans))
    states, length = 1 if site.windows is None else site.windows.states, queries.stop - queries.start
    kept = {kind: number in numbers for kind, numbers in plan.kept.items()}
    for role, module, tensor, kind in (("residual", site.residual, Y, "Y"), ("output", site.output, Y_out, "Y_out")):
        if tensor.dim() < 3 or len(tensor) != batch * states or tensor.shape[:-1].numel() != batch * length:
            raise RecordingError(
                f"module {module!r} ({role}): shape {list(tensor.shape)}, expected {[batch, length, 'D']}"
            )
        if kept[kind] and number in plan.begins and not tensor.requires_grad:
            raise RecordingError(f"module {module!r} ({role}) is off the graph; does the model detach it?")
    if plan.differentiated and kept["A"] and number in plan.begins and not all(A.requires_grad for A, _ in calls):
        raise RecordingError(f"module {site.module!r}: attention is off the graph; does the model detach its inputs?")
    tensors = {"A": tuple(A for A, _ in calls), "Y": (Y,), "Y_out": (Y_out,)}
    parts = InGraph({kind: some for kind, some in tensors.items() if kept[kind]})
    qkv = _qkv(site, [qkv for _, qkv in calls])
    return Event(site.module, queries, keys, parts, qkv, site.windows, dtype=dtype)


def _check_calls_of(
    site: Site, calls: list[tuple[Tensor, QKV | None]], shape: tuple[int, int, int], modalities: int
) -> None:
    """Raises RecordingError for a call whose attention is not of these many samples, queries and keys, or of its windows."""
    for call, (A, _) in enumerate(calls):
        wanted, what = shape, "batch, queries and keys"
        if site.windows is not None:
            q, k = site.windows.queries[call], site.windows.keys[call]
            wanted, what = (shape[0] * len(q), q.shape[1], k.shape[1]), "windows, queries and keys"
        if modalities > 1 and len(A) != wanted[0] and tuple(A.shape[2:]) == wanted[1:]:
            raise RecordingError(
                f"module {site.module!r}: a batch of {len(A)} of {'+'.join(site.queries)}, where the first attention has one of "
                f"{wanted[0]}. Images and texts must be pairs, as many of each: repeat one to the number of the other"
            )
        if (len(A), *A.shape[2:]) != wanted:
            raise RecordingError(
                f"module {site.module!r}: attention has shape {list(A.shape)}, expected {what} {list(wanted)}; "
                "attention in windows is what `Site.windows` says"
            )


def _qkv(site: Site, calls: list[QKV | None]) -> QKV | None:
    """Of all tokens, where calls or windows have some each."""
    known = [qkv for qkv in calls if qkv is not None]
    if site.windows is None or len(known) < len(calls):
        return calls[0]
    query, key, value = (
        site.windows.rows([getattr(qkv, name) for qkv in known], of_keys=name != "query")
        for name in ("query", "key", "value")
    )
    return QKV(query, key, value, known[0].projection, known[0].bias)


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
        real = (event.A.detach() != 0).any(dim=1) & mask[:, event.queries, None]
        attended[:, event.keys] |= real.any(dim=1)
        read[:, event.keys] = True
    return attended | ~read


def _axis(layout: Layout, modalities: dict[str, Positions], batch: int, like: Tensor) -> tuple[Tensor, ...]:
    """Read weights, real tokens, special and learned tokens of the joint axis, each [B, T]."""

    def joint(values: Mapping[str, Tensor], otherwise: float, dtype: torch.dtype) -> Tensor:
        axis = torch.full((batch, sum(layout.lengths.values())), otherwise, dtype=dtype, device=like.device)
        for name, part in values.items():
            axis[:, modalities[name]] = part.to(like.device, dtype)
        return axis

    sets = (
        joint(tokens, rest, torch.bool) for tokens, rest in ((layout.mask, 1), (layout.special, 0), (layout.learned, 0))
    )
    return joint(layout.readout, 0, like.dtype), *sets


def refuse_checkpointing(model: nn.Module) -> None:
    """Raises RecordingError for a module whose attention checkpointing hides."""
    for name, module in modules_of(model).items():
        for flag in ("gradient_checkpointing", "grad_checkpointing"):
            # Much faster than to ask the module, which looks among its parts for what it has not.
            if vars(module).get(flag, getattr(type(module), flag, False)) is True:
                raise RecordingError(
                    f"module {name or type(model).__name__!r} uses activation checkpointing ({flag}), which hides its "
                    "attention; switch it off before explaining"
                )


def pixels_of(inputs: Mapping[str, Any]) -> Tensor:
    """The images among the inputs; raises RecordingError unless there is just one tensor [B, C, rows, columns]."""
    found = [name for name, x in inputs.items() if isinstance(x, Tensor) and x.is_floating_point() and x.dim() == 4]
    if len(found) != 1:
        raise RecordingError(f"relevance of pixels needs one input of images [B, C, rows, columns]; found {found}")
    return inputs[found[0]]

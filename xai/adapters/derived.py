"""An adapter from the model itself: one observed forward pass shows its attentions, skip connections and tokens."""

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from xai.adapters.layout import DerivedLayout, placeholders_of, settled
from xai.adapters.skips import Attention, Graph, attentions, order
from xai.adapters.streams import Streams
from xai.adapters.tokens import Doubt
from xai.adapters.trace import Trace, call_of, traced
from xai.recording.adapter import Adapter, Site, Stream
from xai.recording.axis import Windows
from xai.recording.places import arguments_of

PAGE = "write an adapter (docs/how-to-explain-your-own-model.md) and give it as `adapter=`"
_ENDS = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "decoder_start_token_id")
_known: "WeakKeyDictionary[nn.Module, dict[Any, list[tuple[DerivedLayout, Adapter]]]]" = WeakKeyDictionary()


def derived(model: nn.Module, inputs: Any) -> Adapter:
    """Returns the adapter that one more forward pass shows; the same one for inputs of the same structure.

    Args:
        model: is left as it was, also when it raises.
        inputs: the arguments of its forward, by name or in order.

    Raises:
        TypeError: there is no attention, or a doubt about one; names the module and what to do.
    """
    known = _known.setdefault(model, {}).setdefault(_structure(model, inputs), [])
    arguments = arguments_of(model, *call_of(inputs))
    fitting = next((adapter for layout, adapter in known if layout.fits(arguments)), None)
    if fitting is None:
        layout, fitting = _derive(model, inputs)
        known.append((layout, fitting))
    return fitting


def _derive(model: nn.Module, inputs: Any) -> tuple[DerivedLayout, Adapter]:
    name = type(model).__name__
    trace = traced(model, inputs)
    try:
        found, unread = attentions(trace)
        graph = Graph(trace)
        if not found:
            raise Doubt(_why_none(trace, graph))
        streams = Streams(found, trace.origins.sources)
        aside = _aside(graph, found, streams)
        if aside:
            found, unread = (
                [one for one in found if one not in aside],
                unread.union(*(one.places.attentions for one in aside)),
            )
            streams = Streams(found, trace.origins.sources)
        _check_starts(graph, found, streams)
        _check_views(graph, found, streams)
    except Doubt as doubt:
        raise TypeError(f"no adapter for {name}, and none is found from the model itself: {doubt}; {PAGE}") from doubt
    layers = tuple(
        tuple(
            _site(found[i], streams.name(streams.of[i][0]), streams.name(streams.of[i][1]), streams.windows[i])
            for i in layer
        )
        for layer in order(graph, found, streams.of)
    )
    named = tuple((streams.name(i), tuple(modalities)) for i, (_, modalities) in enumerate(streams.streams))
    arguments = trace.arguments
    layout = DerivedLayout(named, ends_of(model), settled(arguments), placeholders_of(streams, arguments))
    return layout, Adapter(layers, layout, unread, see_padding=True)


def _why_none(trace: Trace, graph: Graph) -> str:
    """What weighs values without being understood as attention, if anything does."""
    known = {call.step for call in trace.attentions}
    for number, step in enumerate(graph.steps):
        if step.name == "softmax" and number not in known and graph.mixed(number) is not None:
            return f"{step.place} weighs values, but its scores are no product of queries with keys that is understood"
    return "it computes no attention that its outputs read"


def _aside(graph: Graph, found: list[Attention], streams: Streams) -> list[Attention]:
    """Attentions of a stream that others are made from, which those others are not made from.

    They are after the layer that a language model takes its image tokens from, and end in what is returned beside.
    """
    aside = []
    for number in range(len(streams.streams)):
        first = next(at for at, of in enumerate(streams.of) if number in of)
        before = graph.before({*found[first].query_steps, *found[first].key_steps})
        later = graph.before({step for one in found[first:] for step in (*one.query_steps, *one.key_steps)})
        for one, (queries, _) in zip(found[:first], streams.of, strict=False):
            if queries in streams.origins(number) and one.sum not in before and one.sum not in later:
                aside.append(one)
    return aside


def _check_starts(graph: Graph, found: list[Attention], streams: Streams) -> None:
    """Raises Doubt for a stream whose tokens come from what attentions made of others, unless it is known from which.

    Those others must have had their last attention: of tokens that go on changing there would be two states.
    """
    started: set[int] = set()
    for at, one in enumerate(found):
        for stream, steps in zip(streams.of[at], (one.query_steps, one.key_steps), strict=True):
            if stream in started or stream < 0:
                continue
            started.add(stream)
            before, origins = graph.before(set(steps), streams.streams[stream][0]), streams.origins(stream)
            allowed = _with_all_before(streams, origins)
            where = f"module {one.places.module!r}"
            for later, other in enumerate(found):
                earlier = streams.of[later][0]
                if earlier == stream:
                    continue
                inside = f"module {other.places.module!r}"
                if earlier in origins and not any(
                    o.sum in before for o, (q, _) in zip(found, streams.of, strict=True) if q == earlier
                ):
                    raise Doubt(
                        f"{where}: its tokens are those of {inside}, embedded once more, as where a decoder's are made from "
                        "the encoder's; give them as an argument of their own, such as decoder_input_ids"
                    )
                if earlier in origins and (later > at or other.sum not in before):
                    raise Doubt(
                        f"{where}: some of its {len(streams.streams[stream][0])} tokens are among those of {inside} too, or made "
                        "from them, and those go on changing beside it, as in class attention; that is not one token axis"
                    )
                if other.sum in before and earlier not in allowed:
                    raise Doubt(
                        f"{where}: its tokens are made from those that attentions such as {inside} have changed, not from "
                        "the model's inputs"
                    )


def _check_views(graph: Graph, found: list[Attention], streams: Streams) -> None:
    """Raises Doubt where modalities that several streams share are not read as the attentions before have left them."""
    for at, one in enumerate(found):
        for stream, steps in zip(streams.of[at], (one.query_steps, one.key_steps), strict=True):
            shared = streams.related(stream)
            before = graph.before(set(steps)) if shared else set()
            for later, other in enumerate(found):
                if shared & {streams.of[later][0]} and (other.sum in before) != (later < at):
                    raise Doubt(
                        f"module {one.places.module!r}: some of its tokens are those of module {other.places.module!r} at "
                        "another time"
                    )


def _with_all_before(streams: Streams, numbers: set[int]) -> set[int]:
    """Streams and what they are made from or have read."""
    found, waiting = set(numbers), list(numbers)
    while waiting:
        number = waiting.pop()
        more = streams.origins(number) | {k for q, k in streams.of if q == number} | streams.related(number)
        waiting += more - found
        found |= more
    return found


def _site(one: Attention, queries: Stream, keys: Stream, windows: Windows | None) -> Site:
    places = one.places
    residual = places.residual.module if places.residual is not None else places.output.module
    return Site(places.module, queries, keys, residual, places.output.module, places, windows)


def ends_of(model: nn.Module) -> tuple[int, ...]:
    """Ids of tokens that are no content, as configurations tell them."""
    found: set[int] = set()
    config = getattr(model, "config", None)
    for part in (config, getattr(config, "text_config", None)):
        for name in _ENDS:
            value = getattr(part, name, None)
            found |= {v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int)}
    return tuple(sorted(found))


def _structure(model: nn.Module, inputs: Any) -> Any:
    """What the course of a pass depends on: the shapes and kinds of inputs, and how attention is computed."""
    inputs = dict(inputs) if isinstance(inputs, Mapping) else inputs
    leaves, tree = tree_flatten(inputs)
    shown = tuple((tuple(x.shape), x.dtype) if isinstance(x, Tensor) else repr(x) for x in leaves)
    configs = {id(c): c for module in model.modules() if (c := getattr(module, "config", None)) is not None}
    kinds = tuple(map(type, model.modules()))
    return str(tree), shown, kinds, tuple(getattr(c, "_attn_implementation", None) for c in configs.values())

"""An adapter from the model itself: one observed forward pass shows its attentions, skip connections and tokens."""

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from xai.adapters.layout import DerivedLayout, Streams, settled
from xai.adapters.skips import Doubt, Found, Graph, attentions, order
from xai.adapters.trace import traced
from xai.recording.adapter import Adapter, Site

PAGE = "write an adapter (docs/how-to-explain-your-own-model.md) and give it as `adapter=`"
_ENDS = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "decoder_start_token_id")
_known: "WeakKeyDictionary[nn.Module, dict[Any, Adapter]]" = WeakKeyDictionary()


def derived(model: nn.Module, inputs: Any) -> Adapter:
    """Returns the adapter that one more forward pass shows; the same one for inputs of the same structure.

    Args:
        model: is left as it was, also when it raises.
        inputs: the arguments of its forward, by name or in order.

    Raises:
        TypeError: there is no attention, or a doubt about one; names the module and what to do.
    """
    known = _known.setdefault(model, {})
    structure = _structure(model, inputs)
    if structure not in known:
        known[structure] = _derive(model, inputs)
    return known[structure]


def _derive(model: nn.Module, inputs: Any) -> Adapter:
    name = type(model).__name__
    trace = traced(model, inputs)
    try:
        found, unread = attentions(trace)
        if not found:
            raise Doubt("it computes no attention that its outputs read")
        streams, graph = Streams(found, trace.origins.sources), Graph(trace)
        _check_starts(graph, found, streams)
    except Doubt as doubt:
        raise TypeError(f"no adapter for {name}, and none is found from the model itself: {doubt}; {PAGE}") from doubt
    layers = tuple(
        tuple(_site(found[i].places, streams.name(streams.of[i][0]), streams.name(streams.of[i][1])) for i in layer)
        for layer in order(graph, found, streams.of)
    )
    named = tuple((streams.name(i), tuple(modalities)) for i, (_, modalities) in enumerate(streams.streams))
    return Adapter(layers, DerivedLayout(named, _ends(model), settled(trace.arguments)), unread, see_padding=True)


def _check_starts(graph: Graph, found: list[Found], streams: Streams) -> None:
    """Raises Doubt for a stream that starts from what another one has become: its tokens are no inputs of the model."""
    started: set[int] = set()
    for one, (stream, _) in zip(found, streams.of, strict=True):
        if stream in started:
            continue
        started.add(stream)
        before = graph.before(set(one.seen.queries))
        for other, (earlier, _) in zip(found, streams.of, strict=True):
            if earlier != stream and other.sum in before:
                raise Doubt(
                    f"module {one.places.attention.module!r}: its tokens are made from those that attentions such as "
                    f"module {other.places.attention.module!r} have changed, not from the model's inputs"
                )


def _site(places: Any, queries: tuple[str, ...], keys: tuple[str, ...]) -> Site:
    residual = places.residual.module if places.residual is not None else places.output.module
    return Site(places.attention.module, queries, keys, residual, places.output.module, places)


def _ends(model: nn.Module) -> tuple[int, ...]:
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
    chosen = tuple(settled({str(i): x for i, x in enumerate(leaves)}).items())
    return str(tree), shown, chosen, kinds, tuple(getattr(c, "_attn_implementation", None) for c in configs.values())

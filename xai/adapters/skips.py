"""From an observed pass to the skip connection of every attention: the first addition on the way of its result."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xai.adapters.operations import PRODUCTS
from xai.adapters.tokens import GIVEN, Doubt, rank_of
from xai.adapters.trace import AttentionCall, Trace, Value, mixes_heads
from xai.adapters.windows import check_apart, check_moves, of_images, positions_of, stream_of, windows_of
from xai.lrp.operations import MOVES
from xai.recording.axis import Windows
from xai.recording.places import Place, Places

# what an attention's result may pass on its way to the sum: projections, moves, scaling, norms, gates
PASSED = {
    *MOVES, *PRODUCTS, "linear", "addmm", "conv1d", "conv2d", "mul", "div", "layer_norm", "rms_norm", "group_norm",
    "batch_norm", "view_as", "detach", "dropout1d", "feature_dropout", "alpha_dropout",
}  # fmt: skip
MIXING = ("linear", "conv2d", "conv1d", "batch_norm", "layer_norm", "add", "div")  # of probabilities with each other
BEFORE_A_SUM = {
    "dropout",
    "to",
    "float",
    "half",
    "bfloat16",
    "type",
    "type_as",
    "view",
    "reshape",
    "contiguous",
    "clone",
}


@dataclass(frozen=True, eq=False)
class Attention:
    """An attention that the outputs read: one call, or those whose results are joined before they are added to the state."""

    places: Places
    queries: Tensor  # tokens [q] of queries and [k] of keys, the same in all samples
    keys: Tensor
    query_steps: frozenset[int]  # that queries come from
    key_steps: frozenset[int]
    causal: bool
    sum: int  # the step after which its result is part of the state
    windows: Windows | None = None


@dataclass(frozen=True, eq=False)
class _Part:
    """One call."""

    call: AttentionCall
    place: Place
    queries: Tensor  # tokens [n, q] and [n, k] of the windows of one sample
    keys: Tensor
    own: Value  # what is added to the state
    state: Value | None  # None: it has no skip connection
    sum: int


def attentions(trace: Trace) -> tuple[list[Attention], frozenset[Place]]:
    """Returns the attentions that the outputs read, in their order, and the places of the others.

    Raises:
        Doubt: one whose skip connection or tokens cannot be told.
    """
    graph = Graph(trace)
    alive = graph.before(trace.outputs)
    _check_samples(graph, alive)
    parts, unread = defaultdict[tuple[int, int], list[_Part]](list), set()
    for call in trace.attentions:
        place, mixed = trace.steps[call.step].place, graph.mixed(call.step)
        if mixed is None and (through := graph.mixed(call.step, MIXING)) is not None and through[0] in alive:
            raise Doubt(
                f"{place}: its probabilities are mixed with each other before they weigh values in "
                f"{trace.steps[through[0]].place}, and not by a linear map of heads (talking heads)"
            )
        if mixed is None:
            continue  # a softmax that weighs no values, such as one over classes
        product, weights = mixed
        if product not in alive:
            unread.add(place)
            continue
        queries, keys = (
            windows_of(tokens, trace.samples, place, which)
            for tokens, which in ((call.queries, "queries"), (call.keys, "keys"))
        )
        own, state, sum_ = _skip(graph, call, product, queries)
        part = _Part(call, place_of(graph, weights), queries, keys, own, state, sum_)
        parts[own.step, own.part].append(part)
    return [_joined(graph, calls, trace.samples) for calls in parts.values()], frozenset(unread)


class Graph:
    """The steps of a pass with their readers."""

    def __init__(self, trace: Trace) -> None:
        self.steps = trace.steps
        self.readers: defaultdict[int, list[int]] = defaultdict(list)
        for number, step in enumerate(self.steps):
            for value in step.reads:
                self.readers[value.step].append(number)

    def before(self, ends: set[int], tokens: Tensor | None = None) -> set[int]:
        """These steps and all that they come from; with `tokens`, of what was joined the parts alone that hold some of them."""
        found, waiting = set(ends), list(ends)
        while waiting:
            step = self.steps[waiting.pop()]
            parts = [value for value in step.reads if step.name == "cat" and _has_some(value, tokens)]
            for value in parts or step.reads:
                if value.step not in found:
                    found.add(value.step)
                    waiting.append(value.step)
        return found

    def mixed(self, softmax: int, through: Sequence[str] = ()) -> tuple[int, Value] | None:
        """The step that mixes values by the probabilities, and what weighs them there: the left operand of their product.

        Those are the probabilities, or what a linear map of their heads makes of them. None if there is no such step.
        `through` are operations that the probabilities may pass beside moves and scaling.
        """
        start = _value(self, softmax)
        if "softmax" not in self.steps[softmax].name:
            return softmax, start  # a function that does all of it
        heads, waiting = {softmax: False}, [softmax]  # whether they are mixed, by step
        while waiting:
            before = waiting.pop(0)
            for reader in self.readers[before]:
                step, mixes = self.steps[reader], mixes_heads(self.steps[reader], start.shape)
                if step.name in PRODUCTS:
                    if len(step.reads) > 1 and step.reads[-2].step in heads:
                        return reader, self._undropped(step.reads[-2]) if heads[step.reads[-2].step] else start
                elif reader not in heads and (mixes or step.name in MOVES or step.name in ("mul", "dropout", *through)):
                    heads[reader] = heads[before] or mixes
                    waiting.append(reader)
        return None

    def _undropped(self, value: Value) -> Value:
        while self.steps[value.step].name == "dropout":
            value = self.steps[value.step].reads[0]
        return value


def _check_samples(graph: Graph, alive: set[int]) -> None:
    """Raises Doubt where tokens are sampled at points outside of the modules that `deformable_attention` stands for."""
    for number in sorted(alive):
        step = graph.steps[number]
        tokens = [value.tokens for value in step.reads if value.tokens is not None]
        if step.name == "grid_sample" and any((rank_of(part) >= GIVEN).any() for part in tokens):
            raise Doubt(f"{step.place}: it samples tokens at points, as deformable attention in plain code does")


def _joined(graph: Graph, parts: list[_Part], samples: int) -> Attention:
    """One attention from its calls."""
    first = parts[0]
    own, state, place = first.own, first.state, first.place
    same = all(part.queries.shape == part.keys.shape and torch.equal(part.queries, part.keys) for part in parts)
    if state is None and same:
        raise Doubt(f"{place}: nothing is found to which the result of this self-attention is added as it is")
    images = 1  # rows of the state's own batch that are one sample
    if any(len(part.queries) > 1 for part in parts):
        images = max(1, (own.shape if state is None else state.shape)[0] // samples)
    queries, keys = ([of_images(getattr(part, which), images) for part in parts] for which in ("queries", "keys"))
    stream = stream_of(place, queries, None if state is None else state.tokens, images, samples)
    others = stream if same else torch.cat([tokens.flatten() for tokens in keys])
    plain = len(parts) == len(queries[0]) == 1 and torch.equal(queries[0][0], stream)
    if not plain and not same:
        others = others[others != 0].unique()
    for which, tokens in (("queries", stream), ("keys", others)):
        check_apart(place, which, tokens)
    windows = None
    if not plain:
        windows = Windows(
            tuple(positions_of(tokens, stream) for tokens in queries),
            tuple(positions_of(tokens, others) for tokens in keys),
            (len(stream), len(others)),
            images,
        )
        check_moves(place, own, state, samples, images)
    return Attention(
        Places(
            tuple(part.place for part in parts), None if state is None else place_of(graph, state), place_of(graph, own)
        ),
        stream,
        others,
        frozenset(step for part in parts for step in part.call.query_steps),
        frozenset(step for part in parts for step in part.call.key_steps),
        all(part.call.causal for part in parts),
        first.sum,
        windows,
    )


def place_of(graph: Graph, value: Value) -> Place:
    step = graph.steps[value.step]
    return step.place._replace(part=value.part)


@dataclass(frozen=True)
class _Carried:
    """What the result of an attention has become: `own` is the last that is its alone."""

    own: Value
    alone: bool


def _skip(graph: Graph, call: AttentionCall, mixed: int, queries: Tensor) -> tuple[Value, Value | None, int]:
    """What the attention adds, the state to which, and the step of the sum; no state and its own last step if there is none."""
    behind_queries = graph.before(set(call.query_steps))
    place = graph.steps[call.step].place
    start = _value(graph, mixed)
    carried = {mixed: _Carried(start, True)}
    single: Value | None = None  # the last of a way that does not branch
    unbranched = {mixed}
    for number in range(mixed + 1, len(graph.steps)):
        step = graph.steps[number]
        brought = [value for value in step.reads if value.step in carried]
        if not brought:
            continue
        come = carried[brought[0].step]
        own = brought[0] if come.alone else come.own
        if step.name == "add":
            others = [value for value in step.reads if value.step not in carried]
            if len(brought) > 1:
                continue
            if others:
                state = _summand(graph, others[0], behind_queries, own.shape, queries)
                if state is not None:
                    if step.in_place:
                        raise Doubt(
                            f"{step.place}: a skip connection is added in place, so that what it carried is gone"
                        )
                    return own, state, number
                if others[0].shape == own.shape:
                    carried[number] = _Carried(own, False)
                    continue
        elif step.name not in PASSED and "dropout" not in step.name:
            continue
        result = _value(graph, number)
        carried[number] = _Carried(result if come.alone else come.own, come.alone)
        if come.alone and brought[0].step in unbranched and len(graph.readers[brought[0].step]) == 1:
            unbranched.add(number)
            if len(result.shape) == 3:
                single = result
    if single is None or single.shape[1] != queries.shape[1]:
        raise Doubt(f"{place}: nothing is found to which its result is added")
    return single, None, single.step


def _has_some(value: Value, tokens: Tensor | None) -> bool:
    return tokens is not None and value.tokens is not None and bool(torch.isin(tokens[tokens != 0], value.tokens).any())


def _value(graph: Graph, number: int) -> Value:
    """The first result of a step, as its readers see it."""
    for reader in graph.readers[number]:
        for value in graph.steps[reader].reads:
            if value.step == number:
                return value
    return Value(number, 0, (), None)


def _summand(graph: Graph, value: Value, behind: set[int], shape: tuple[int, ...], queries: Tensor) -> Value | None:
    """The residual state in `value`: itself, if queries come from it, or one of those that it is a sum of."""
    waiting = [value]
    for _ in range(8):
        following: list[Value] = []
        for one in waiting:
            if one.shape == shape and one.step in behind and _holds(one, queries):
                return one
            step = graph.steps[one.step]
            if step.name == "add" or step.name in BEFORE_A_SUM:
                following += step.reads
        waiting = following
    return None


def _holds(value: Value, queries: Tensor) -> bool:
    """Whether its rows are the queries, or have those of windows among them; a state that starts from zeros has no tokens yet."""
    if value.tokens is None:
        return len(queries) == 1
    if len(queries) == 1 and queries.shape[1:] == value.tokens.shape[-1:]:
        return bool((value.tokens == queries[0]).all())
    return bool(torch.isin(queries[queries != 0], value.tokens).all()) and bool((queries != 0).any())


def order(graph: Graph, found: list[Attention], streams: list[tuple[int, int]]) -> list[list[int]]:
    """Layers of simultaneous attentions, as late as the later ones allow: two towers end together.

    `streams` are the numbers of the streams of queries and keys of each. A stream that is read by others, and reads none of
    those, is finished before they start, as an encoder is.
    """
    reads = {(q, k) for q, k in streams if q != k}
    changed = True
    while changed:
        more = {(a, d) for a, b in reads for c, d in reads if b == c} - reads
        reads, changed = reads | more, bool(more)
    level = [0] * len(found)
    for one in reversed(range(len(found))):
        for later in range(one + 1, len(found)):
            q, other = streams[one][0], streams[later][0]
            encoder = (other, q) in reads and (q, other) not in reads
            if encoder or found[one].sum in graph.before({*found[later].query_steps, *found[later].key_steps}):
                level[one] = max(level[one], level[later] + 1)
    return [[i for i in range(len(found)) if level[i] == height] for height in range(max(level), -1, -1)]

"""From an observed pass to the skip connection of every attention: the first addition on the way of its result."""

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from xai.adapters.origins import PRODUCTS
from xai.adapters.tokens import CLASH, GIVEN, before_image, rank_of
from xai.adapters.trace import AttentionCall, Trace, Value
from xai.lrp.operations import MOVES
from xai.recording.places import Place, Places

# what an attention's result may pass on its way to the sum: projections, moves, scaling, norms, gates
PASSED = {
    *MOVES, *PRODUCTS, "linear", "addmm", "conv1d", "conv2d", "mul", "div", "layer_norm", "rms_norm", "group_norm",
    "batch_norm", "view_as", "detach", "dropout1d", "feature_dropout", "alpha_dropout",
}  # fmt: skip
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


class Doubt(Exception):
    """It cannot be told from the pass how to explain the model; the message names the module."""


@dataclass(frozen=True, eq=False)
class Attention:
    """An attention that the outputs read."""

    places: Places
    queries: Tensor  # tokens [q] of queries and [k] of keys, the same in all samples
    keys: Tensor
    call: AttentionCall
    sum: int  # the step after which its result is part of the state
    sample: int | None = None  # which of the attention's batch, where that is the images of one sample


def attentions(trace: Trace) -> tuple[list[Attention], frozenset[Place]]:
    """Returns the attentions that the outputs read, in their order, and the places of the others.

    Raises:
        Doubt: one whose skip connection or tokens cannot be told.
    """
    graph = Graph(trace)
    alive = graph.before(trace.outputs)
    found, unread = [], set()
    for call in trace.attentions:
        place = trace.steps[call.step].place
        mixed = graph.mixed(call.step)
        if mixed is None:
            continue  # a softmax that weighs no values, such as one over classes
        if mixed not in alive:
            unread.add(place)
            continue
        found += _found(graph, call, mixed, trace.samples)
    return found, frozenset(unread)


class Graph:
    """The steps of a pass with their readers."""

    def __init__(self, trace: Trace) -> None:
        self.steps = trace.steps
        self.readers: defaultdict[int, list[int]] = defaultdict(list)
        for number, step in enumerate(self.steps):
            for value in step.reads:
                self.readers[value.step].append(number)

    def before(self, ends: set[int]) -> set[int]:
        """These steps and all that they come from."""
        found, waiting = set(ends), list(ends)
        while waiting:
            for value in self.steps[waiting.pop()].reads:
                if value.step not in found:
                    found.add(value.step)
                    waiting.append(value.step)
        return found

    def mixed(self, softmax: int) -> int | None:
        """The step that mixes values by the probabilities: their product with them on the left. None if there is none."""
        if "softmax" not in self.steps[softmax].name:
            return softmax  # a function that does all of it
        carried, waiting = {softmax}, [softmax]
        while waiting:
            for reader in self.readers[waiting.pop(0)]:
                step = self.steps[reader]
                if step.name in PRODUCTS:
                    if len(step.reads) > 1 and step.reads[-2].step in carried:
                        return reader
                elif (step.name in MOVES or step.name in ("mul", "dropout")) and reader not in carried:
                    carried.add(reader)
                    waiting.append(reader)
        return None


def _found(graph: Graph, call: AttentionCall, mixed: int, samples: int) -> list[Attention]:
    """One, or of the images of a model's one sample, which are a batch, one each."""
    place = graph.steps[call.step].place
    queries, keys = call.queries, call.keys
    if samples > 1 or queries is None or keys is None or not (_differ(queries) and _differ(keys)):
        return [_one(graph, call, mixed, _alike(queries, place, "queries"), _alike(keys, place, "keys"), None)]
    return [
        _one(graph, call, mixed, _alike(q[None], place, "queries"), _alike(k[None], place, "keys"), n)
        for n, (q, k) in enumerate(zip(queries, keys, strict=True))
    ]


def _differ(tokens: Tensor) -> bool:
    """Whether the rows of a batch are other tokens."""
    return not bool((tokens == tokens[:1]).all())


def _one(graph: Graph, call: AttentionCall, mixed: int, queries: Tensor, keys: Tensor, sample: int | None) -> Attention:
    place = graph.steps[call.step].place
    own, state, sum_ = _skip(graph, call, mixed, queries, sample)
    if state is None and queries.shape == keys.shape and torch.equal(queries, keys):
        raise Doubt(f"{place}: nothing is found to which the result of this self-attention is added as it is")
    residual = None if state is None else place_of(graph, state)
    return Attention(
        Places(place, residual, place_of(graph, own)),
        before_image(queries, sample),
        before_image(keys, sample),
        call,
        sum_,
        sample,
    )


def place_of(graph: Graph, value: Value) -> Place:
    step = graph.steps[value.step]
    return step.place._replace(part=value.part)


def _alike(tokens: Tensor | None, place: Place, which: str) -> Tensor:
    if tokens is None or tokens.dim() != 2:
        raise Doubt(f"{place}: it cannot be told which tokens its {which} are")
    if not torch.equal(tokens, tokens[:1].expand_as(tokens)):
        raise Doubt(
            f"{place}: its {which} are other tokens in every sample (windows, or images at other places of the text)"
        )
    one = tokens[0]
    if (rank_of(one) == CLASH).any():
        raise Doubt(f"{place}: its {which} are each made of several tokens, such as a word and a patch that are added")
    of_inputs = [token for token in one.tolist() if token >> 48 >= GIVEN]  # a parameter may stand in several places
    if (one == 0).sum() > 1 or len(set(of_inputs)) != len(of_inputs):
        raise Doubt(
            f"{place}: its {which} cannot be told from each other, as they come from no argument or parameter of their own"
        )
    return one


@dataclass(frozen=True)
class _Carried:
    """What the result of an attention has become: `own` is the last that is its alone."""

    own: Value
    alone: bool


def _skip(
    graph: Graph, call: AttentionCall, mixed: int, queries: Tensor, sample: int | None
) -> tuple[Value, Value | None, int]:
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
                state = _summand(graph, others[0], behind_queries, own.shape, queries, sample)
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
    if single is None or single.shape[1] != len(queries):
        raise Doubt(f"{place}: nothing is found to which its result is added")
    return single, None, single.step


def _value(graph: Graph, number: int) -> Value:
    """The first result of a step, as its readers see it."""
    for reader in graph.readers[number]:
        for value in graph.steps[reader].reads:
            if value.step == number:
                return value
    return Value(number, 0, (), None)


def _summand(
    graph: Graph, value: Value, behind: set[int], shape: tuple[int, ...], queries: Tensor, sample: int | None
) -> Value | None:
    """The residual state in `value`: itself, if queries come from it, or one of those that it is a sum of."""
    waiting = [value]
    for _ in range(8):
        following: list[Value] = []
        for one in waiting:
            if one.shape == shape and one.step in behind and _same_tokens(one, queries, sample):
                return one
            step = graph.steps[one.step]
            if step.name == "add" or step.name in BEFORE_A_SUM:
                following += step.reads
        waiting = following
    return None


def _same_tokens(value: Value, queries: Tensor, sample: int | None) -> bool:
    """Whether its rows are the queries; those of a state that starts from zeros are of no token yet."""
    if value.tokens is None or queries.shape not in (value.tokens.shape, value.tokens.shape[1:]):
        return value.tokens is None
    tokens = value.tokens if sample is None else value.tokens[sample]
    return bool((tokens == queries).all())


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
            if encoder or found[one].sum in graph.before(
                {*found[later].call.query_steps, *found[later].call.key_steps}
            ):
                level[one] = max(level[one], level[later] + 1)
    return [[i for i in range(len(found)) if level[i] == height] for height in range(max(level), -1, -1)]

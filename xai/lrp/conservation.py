"""Whether relevance is kept: what every layer got, passed on, left in constants, and lost."""

import re
from dataclasses import dataclass
from math import inf, isnan

from xai.lrp.mode import PropagationError
from xai.lrp.propagation import Flow, Operation, Rules
from xai.lrp.relevances import propagate
from xai.recording.recording import Recording, Score


@dataclass(frozen=True)
class LayerFlow:
    """Relevance of the whole batch that entered a layer from its results, and where it went.

    A layer is a numbered module of the model, such as `encoder.layer.3`, or any module outside of those.
    """

    name: str
    entered: float
    absorbed: float  # left in constants: biases, position embeddings
    lost: float  # neither absorbed nor passed on
    worst: str  # the operation that lost most, and its module

    @property
    def left(self) -> float:
        """Passed on to the layer's inputs."""
        return self.entered - self.absorbed - self.lost


@dataclass(frozen=True)
class Conservation:
    """`start` is the relevance the targets of the batch started with; layers from the output to the input."""

    start: float
    layers: tuple[LayerFlow, ...]

    def loss(self, layer: LayerFlow) -> float:
        """The share of the start relevance that is lost in a layer; infinite where it is not a number."""
        share = abs(layer.lost / self.start) if layer.lost else 0.0
        return inf if isnan(share) else share

    def check(self, tolerance: float) -> None:
        """Raises PropagationError, naming the layer that loses most, if one loses more than the tolerance."""
        worst = max(self.layers, key=self.loss, default=None)
        if worst is not None and self.loss(worst) > tolerance:
            raise PropagationError(
                f"relevance is lost in layer {worst.name!r}: {self.loss(worst):.2g} of the target's, more than the "
                f"tolerance of {tolerance:g}, most by {worst.worst}"
            )

    def __str__(self) -> str:
        """A table of shares of the start relevance."""
        rows = [f"{'layer':40} {'entered':>9} {'left':>9} {'absorbed':>9} {'lost':>9}"]
        for layer in self.layers:
            flows = (layer.entered, layer.left, layer.absorbed, layer.lost)
            rows.append(f"{layer.name:40} " + " ".join(f"{flow / self.start:9.2g}" for flow in flows))
        return "\n".join(rows)


def conservation(recording: Recording, target: Score, rules: Rules) -> Conservation:
    """The flow of relevance for `target` through all layers, from one backward pass."""
    _, start, ledger = propagate(recording, target, rules, audit=True)
    by_layer: dict[str, list[tuple[Operation, Flow]]] = {}
    for operation, flow in ledger:
        by_layer.setdefault(_layer(operation.module), []).append((operation, flow))
    return Conservation(float(start.abs().sum()), tuple(_layer_flow(name, flows) for name, flows in by_layer.items()))


def _layer(module: str) -> str:
    numbered = re.match(r"(?:[^\d.][^.]*\.)+\d+(?=\.|$)", module)
    return numbered.group() if numbered else module


def _layer_flow(name: str, flows: list[tuple[Operation, Flow]]) -> LayerFlow:
    exits = [flow for operation, flow in flows if operation.kind == "exit"]
    inner = [(operation, flow) for operation, flow in flows if operation.kind != "exit"]
    lost = [float(flow.entered - flow.left - flow.absorbed) for _, flow in inner]
    entered = sum(float(flow.entered) for flow in exits or [flow for _, flow in inner[:1]])
    worst = max(range(len(inner)), key=lambda i: abs(lost[i]), default=None)
    described = "" if worst is None else f"{inner[worst][0].name} in module {inner[worst][0].module!r}"
    return LayerFlow(name, entered, sum(float(flow.absorbed) for _, flow in inner), sum(lost), described)

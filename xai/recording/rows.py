"""Several targets of one pass: rows that share the pass's samples, served by one batched backward pass.

The words of a text are such rows: the model ran once over the whole text, and each word is explained by a row of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from xai.recording.event import Event
from xai.recording.recording import Recording
from xai.recording.rerun import RunAgain
from xai.recording.turns import Turns


@dataclass(frozen=True, eq=False)
class RowsAgain:
    """The pass run once more for each turn, from states [n R, tokens, D] by modality before a layer."""

    turns: Turns
    rerun: RunAgain
    states: Mapping[str, Tensor]
    layer: int = 0

    def gradients(self, target: Callable[[Any], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The target [n R], and its gradient by the states [n R, tokens, D]."""
        of, turn = self.turns.of, self.turns.turn
        inputs = {name: values.unflatten(0, (-1, len(of))) for name, values in self.states.items()}
        gradients = {name: torch.zeros_like(values) for name, values in inputs.items()}
        scores: list[Tensor] = []
        stand_in = torch.stack([(of == sample).nonzero()[0, 0] for sample in range(self.turns.samples)])
        for number in range(self.turns.count):
            rows = (turn == number).nonzero()[:, 0]
            chosen = stand_in.clone()
            chosen[of[rows]] = rows
            again = self.rerun({name: values[:, chosen].flatten(0, 1) for name, values in inputs.items()}, self.layer)
            values, slopes = again.gradients(partial(_some_of, target, rows))
            scores.append(values.unflatten(0, (-1, len(rows))))
            for name, slope in slopes.items():
                gradients[name][:, rows] = slope.unflatten(0, (-1, self.turns.samples))[:, of[rows]]
        order = torch.cat([(turn == number).nonzero()[:, 0] for number in range(self.turns.count)]).argsort()
        return torch.cat(scores, dim=1)[:, order].flatten(), {n: by.flatten(0, 1) for n, by in gradients.items()}


def _some_of(target: Callable[[Any], Tensor], rows: Tensor, outputs: Any) -> Tensor:
    return target(outputs)[rows]


def by_rows(
    recording: Recording,
    of: Int[Tensor, " R"],
    mask: Bool[Tensor, "R T"] | None = None,
    read: Int[Tensor, " R"] | None = None,
) -> Recording:
    """Makes a recording whose rows are targets of one pass, several of a sample.

    Every explainer takes it as it takes a batch. A target gives one number a row, [R], from the outputs of the pass.

    Args:
        recording: of the pass, of B samples.
        of: which sample each row is; every sample has a row at least.
        mask: the tokens that count for a row; None for those of its sample.
        read: the token of the joint axis from whose row each target is read; None for what the model's head reads.

    Returns:
        The recording; its attentions are those of the pass, not copied if B is 1.

    Raises:
        ValueError: a sample has no row.
    """
    of = of.cpu()
    turns = Turns(of, len(recording.mask))
    if of.unique().tolist() != list(range(turns.samples)):
        raise ValueError(f"rows of samples {of.unique().tolist()} of a pass of {turns.samples}; give each at least one")
    mask = turns.repeated(recording.mask) if mask is None else mask.to(recording.mask.device)
    readout = turns.repeated(recording.readout.expand(recording.mask.shape))
    if read is not None:
        readout = torch.zeros_like(mask, dtype=readout.dtype).scatter(1, read.to(mask.device)[:, None], 1)
    layers = tuple(tuple(_of_rows(event, turns) for event in layer) for layer in recording.layers)
    rerun = None if recording.rerun is None else partial(RowsAgain, turns, recording.rerun)
    special = turns.repeated(recording.special)
    return replace(
        recording.fresh(), layers=layers, mask=mask, special=special, readout=readout, rerun=rerun, turns=turns
    )


def _of_rows(event: Event, turns: Turns) -> Event:
    qkv = event.qkv
    if qkv is not None:
        parts = {name: turns.repeated(getattr(qkv, name)) for name in ("query", "key", "value")}
        qkv = replace(qkv, **parts)
    return replace(event, qkv=qkv, turns=turns)

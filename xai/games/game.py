"""The masked game: a target of a recorded call when some of the tokens are not there, every distinct input run once."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xai.games.inputs import Perturbed, distinct
from xai.recording.inputs import apart, part_of
from xai.recording.recording import Recording, Score
from xai.targets import decided


class Game:
    """The value f(M) of a target on inputs in which the tokens M stay.

    The value is the probability of what is explained where the target knows one (`Target.probability`), else the target.

    Args:
        recording: one forward pass, or one whose rows share its samples.
        target: from the model's outputs to one number a row, [R].
        at_once: inputs of one run of the model; None for 64 on a CPU, whose caches hold no more, and 256 on a GPU.

    Attributes:
        rows: [samples, W], the rows of the recording of each sample; -1 where it has fewer.
        whole: [samples, W], the value of the whole input, NaN where a sample has fewer rows.
        runs: inputs that were run.

    Raises:
        ValueError: a recording that cannot run its model again, tokens that cannot be hidden, or a model that does not
            say again of the whole input what was recorded.
    """

    def __init__(self, recording: Recording, target: Score, at_once: int | None = None) -> None:
        if recording.without is None:
            raise ValueError("this recording cannot run its model without tokens; it was not made by `record`")
        self.recording = recording
        self.target = decided(target, recording.output)
        self.value: Score = getattr(self.target, "probability", None) or self.target
        self.at_once = at_once or (64 if recording.mask.device.type == "cpu" else 256)
        self.run = recording.without(recording, target)
        self.rows = _rows_of_samples(recording)
        self.runs = 0
        self.known: dict[tuple[int, bytes], Tensor] = {}
        self.whole = self._rows(self._value(recording.output))
        self._check()

    def __call__(self, keep: Bool[Tensor, "N T"], samples: Int[Tensor, " N"]) -> Float[Tensor, "N W"]:
        """Returns the value of each input for the rows of its sample.

        Args:
            keep: [N, T] over the joint axis, False where a token is taken away.
            samples: [N], of which sample each input is.

        Returns:
            [N, W] in float64, NaN where a sample has fewer rows than others.
        """
        batches, places = distinct(keep, samples, self.at_once)
        values = torch.cat([self._of(batch) for batch in batches])
        return values[places]

    def rows_of(self, sample: int) -> Int[Tensor, " W"]:
        """Returns the rows of the recording that a sample has."""
        return self.rows[sample][self.rows[sample] >= 0]

    def _of(self, batch: Perturbed) -> Tensor:
        names = list(zip(batch.rows.tolist(), map(bytes, batch.keep.cpu().numpy()), strict=True))
        new = [place for place, name in enumerate(names) if name not in self.known]
        if new:
            index = torch.tensor(new, device=batch.keep.device)
            values = self._values(batch.keep[index], batch.rows[index])
            self.known.update((names[place], value) for place, value in zip(new, values, strict=True))
            self.runs += len(new)
        return torch.stack([self.known[name] for name in names])

    def _values(self, keep: Tensor, samples: Tensor) -> Tensor:
        """The target takes outputs of all samples: each part has one input of every sample that is there, and another for it."""
        outputs = self.run(keep, samples)
        found = torch.full((len(keep), self.rows.shape[1]), torch.nan, dtype=torch.float64, device=keep.device)
        left = {sample: (samples == sample).nonzero()[:, 0].tolist() for sample in set(samples.tolist())}
        while left:
            chosen = {sample: places.pop() for sample, places in left.items()}
            index = torch.tensor([chosen.get(sample, 0) for sample in range(len(self.rows))], device=keep.device)
            values = self._rows(self._value(part_of(outputs, index, len(keep))))
            for sample, place in chosen.items():
                found[place] = values[sample]
            left = {sample: places for sample, places in left.items() if places}
        return found

    @torch.no_grad()
    def _value(self, outputs: Any) -> Float[Tensor, " R"]:
        values = self.value(outputs).detach().double()
        if not values.isfinite().all():
            raise ValueError(
                "the target is not finite where tokens are taken away; explain it by a method of gradients"
            )
        return values

    def _rows(self, values: Float[Tensor, " R"]) -> Float[Tensor, "samples W"]:
        rows = self.rows.to(values.device)
        return values[rows.clamp(min=0)].masked_fill(rows < 0, torch.nan)

    def _check(self) -> None:
        """Sees that inputs made from the recorded call are what was recorded; of models that loop over images one at a time."""
        try:
            wrong = self._wrong(2)
        except (RuntimeError, IndexError) as error:
            if len(self.rows) > 1:
                raise ValueError(
                    f"inputs made from this batch cannot be run ({error}); explain one sample at a time"
                ) from error
            wrong = "unknown"
        if wrong and len(self.rows) == 1:
            self.at_once, wrong = 1, self._wrong(1)
        if wrong:
            raise ValueError(
                f"the model, run again on the whole input, does not say what was recorded: {wrong}; give its inputs as a batch, "
                "samples first, or explain one sample at a time"
            )

    def _wrong(self, times: int) -> str:
        """Returns how the value of the whole input, run so many times in one batch, differs from what was recorded."""
        device = self.recording.mask.device
        samples = torch.arange(len(self.rows), device=device).repeat(times)
        again = self._values(
            torch.ones(len(samples), self.recording.mask.shape[1], dtype=torch.bool, device=device), samples
        )
        whole = self.whole.repeat(times, 1)
        other = apart(again, whole)
        return f"{again[other][0]:.4g} instead of {whole[other][0]:.4g}" if other.any() else ""


def game_of(recording: Recording, target: Score) -> Game:
    """Returns the game of a target, the same one for every method that asks, so that no input is run twice."""
    if target not in recording.games:
        recording.games[target] = Game(recording, target)
    return recording.games[target]


def _rows_of_samples(recording: Recording) -> Int[Tensor, "samples W"]:
    if recording.turns is None:
        return torch.arange(len(recording.mask))[:, None]
    rows = torch.full((recording.turns.samples, recording.turns.count), -1)
    rows[recording.turns.of, recording.turns.turn] = torch.arange(len(recording.turns.of))
    return rows

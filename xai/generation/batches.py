"""Several prompts with room for what is written after them: one pass, and the greedy text, for many samples at once."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from xai.generation.inputs import Messages, is_encoder_decoder, passage, prompt_inputs, tokenizer_of, without_cache
from xai.targets import logits

Run = Callable[[Mapping[str, Any], Tensor], Any]  # from arguments, and which samples they are of [N], to outputs


@dataclass(frozen=True, eq=False)
class Prompts:
    """The arguments of a pass over prompts of one model, each with an image or none, and over what follows on them.

    Attributes:
        arguments: of the model's forward; texts are padded on the right.
        text: the argument that holds what is written.
        starts: where in it the first written token is, [B].
        room: how many tokens are written at most.
        rows: how many rows of each argument are one sample's.
        prompts: of each sample the ids before the written tokens, or those of the encoder.
    """

    arguments: dict[str, Any]
    text: str
    starts: Int[Tensor, " B"]
    room: int
    rows: dict[str, int]
    prompts: list[list[int]]

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def places(self) -> Int[Tensor, "B room"]:
        """Where the written tokens are in the text; each is decided by the logits of the place before."""
        return self.starts[:, None] + torch.arange(self.room, device=self.starts.device)

    def of(self, samples: Int[Tensor, " N"]) -> "Prompts":
        """Returns those of some samples, or of one several times."""
        arguments = {}
        for name, value in self.arguments.items():
            arguments[name] = value
            if name in self.rows:
                arguments[name] = value.unflatten(0, (len(self), self.rows[name]))[samples.to(value.device)].flatten(
                    0, 1
                )
        prompts = [self.prompts[sample] for sample in samples.tolist()]
        return replace(self, arguments=arguments, starts=self.starts[samples.to(self.starts.device)], prompts=prompts)

    def with_tokens(self, tokens: Int[Tensor, "B room"]) -> dict[str, Any]:
        """Returns the arguments of a pass over these written tokens."""
        return {**self.arguments, self.text: self.arguments[self.text].scatter(1, self.places, tokens)}

    def decided(self, outputs: Any) -> Float[Tensor, "B room V"]:
        """Returns the logits by which each written token is decided."""
        found = logits(outputs)
        return found[torch.arange(len(self), device=found.device)[:, None], (self.places - 1).to(found.device)]


def prompts_of(
    model: nn.Module,
    processor: Any,
    images: Sequence[Any],
    texts: Sequence[str | Messages | None],
    room: int,
    chat: bool | None = None,
) -> Prompts:
    """Returns the prompts of several samples.

    Args:
        model: one with `generate`.
        processor: the model's.
        images: one for each sample, or none at all.
        texts: one for each sample, as `explain_generated` takes them.
        room: tokens that can be written.
        chat: as of `explain_generated`.

    Raises:
        ValueError: samples whose images the processor brings to different sizes.
    """
    given = [[image] for image in images] if images else [[] for _ in texts]
    tokenizer = tokenizer_of(processor)
    filler = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    wholes = [
        passage(model, prompt_inputs(model, processor, some, text, chat), [filler] * room)
        for some, text in zip(given, texts, strict=True)
    ]
    name = "decoder_input_ids" if is_encoder_decoder(model) else "input_ids"
    arguments: dict[str, Any] = {}
    rows: dict[str, int] = {}
    for key in wholes[0].inputs:
        values = [whole.inputs[key] for whole in wholes]
        if not isinstance(values[0], Tensor):
            arguments[key] = values[0]
            continue
        rows[key] = len(values[0])
        arguments[key] = _joined(key, values, filler if key.endswith("input_ids") else 0)
    starts = torch.tensor([whole.start for whole in wholes], device=arguments[name].device)
    before = [whole.ids[: whole.start] if whole.prompt is None else whole.prompt for whole in wholes]
    return Prompts(without_cache(model, arguments), name, starts, room, rows, before)


@torch.no_grad()
def greedy(
    prompts: Prompts,
    run: Run,
    ends: Collection[int],
    guess: Int[Tensor, "B room"] | None = None,
    never: Collection[int] = (),
) -> tuple[Int[Tensor, "B room"], Float[Tensor, " B"]]:
    """Writes texts greedily, the likeliest token each time, without a cache of keys and values.

    A pass over a guess says what follows on each of its beginnings. The answers are the next guess, until a pass says what it was
    given: every pass gets at least one more token right, and a guess that is nearly right takes few.

    Args:
        prompts: what is gone on from.
        run: the model.
        ends: tokens that end a text.
        guess: texts to start from, such as those that were written for nearly the same prompts.
        never: tokens that are not written, such as those that stand for an image.

    Returns:
        The tokens, of any value after the first end; and the log-probability of the guess up to its end.

    Source:
        Jacobi decoding: Santilli et al. 2023.

    Example:
        >>> import torch
        >>> from xai.generation.batches import Prompts, greedy
        >>> def counting(arguments, samples):  # a model that writes the number after the last one; 5 is the end
        ...     return torch.nn.functional.one_hot((arguments["input_ids"] + 1).clamp(max=5), 6).float() * 9
        >>> ids = torch.tensor([[2, 0, 0, 0]])
        >>> prompts = Prompts({"input_ids": ids}, "input_ids", torch.tensor([1]), 3, {"input_ids": 1}, [[2]])
        >>> greedy(prompts, counting, {5})[0]
        tensor([[3, 4, 5]])
    """
    tokens = prompts.arguments[prompts.text].gather(1, prompts.places) if guess is None else guess.clone()
    likely, left = None, torch.arange(len(prompts), device=tokens.device)
    stops = torch.tensor(sorted(ends), device=tokens.device)
    while len(left):
        part = prompts.of(left)
        scores = part.decided(run(part.with_tokens(tokens[left]), left)).float()
        if likely is None:
            each = scores.log_softmax(dim=-1).gather(2, tokens[..., None])[..., 0]
            likely = each.masked_fill(after(tokens, stops), 0).sum(dim=1)
        best = scores.index_fill(-1, torch.tensor(sorted(never), device=scores.device).long(), -torch.inf).argmax(
            dim=-1
        )
        same = (best == tokens[left]) | after(best, stops)
        tokens[left] = best
        left = left[~same.all(dim=1)]
    assert likely is not None
    return tokens, likely


def after(tokens: Int[Tensor, "B room"], stops: Int[Tensor, " ends"]) -> Tensor:
    """Returns which tokens come after the first that ends the text, [B, room]."""
    stop = torch.isin(tokens, stops.to(tokens.device)).int()
    return stop.cumsum(dim=1) - stop > 0


def _joined(name: str, values: list[Tensor], filler: int) -> Tensor:
    if all(value.dim() == 2 and not value.is_floating_point() and len(value) == 1 for value in values):
        length = max(value.shape[1] for value in values)
        return torch.cat([torch.nn.functional.pad(v, (0, length - v.shape[1]), value=filler) for v in values])
    if len({value.shape for value in values}) > 1:
        raise ValueError(
            f"the processor makes {name} of different shapes of these images, {[list(v.shape) for v in values[:3]]}: give them "
            "one at a time"
        )
    return torch.cat(values)

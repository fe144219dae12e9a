"""Which tokens the windows of an attention hold, and the stream that they are windows of."""

import torch
from torch import Tensor

from xai.adapters.tokens import CLASH, GIVEN, Doubt, before_image, rank_of
from xai.adapters.trace import Value
from xai.recording.places import Place


def windows_of(tokens: Tensor | None, samples: int, place: Place, which: str) -> Tensor:
    """Tokens [n, T] of the windows of one sample, from those of all samples; one window where all rows are alike."""
    if tokens is None or tokens.dim() != 2:
        raise Doubt(
            f"{place}: it cannot be told which tokens its {which} are, as where they are made of scores, or heads have five axes"
        )
    if _alike(tokens):
        tokens = tokens[:1]
    elif len(tokens) % samples == 0 and _alike(tokens.unflatten(0, (samples, -1))):
        tokens = tokens[: len(tokens) // samples]
    else:
        raise Doubt(
            f"{place}: its {which} are other tokens in every sample (such as images at other places of the text, or a "
            "decoder's tokens that are made from the encoder's: give decoder_input_ids)"
        )
    if (rank_of(tokens) == CLASH).any():
        raise Doubt(
            f"{place}: its {which} are each made of several tokens, such as a word and a patch that are added, or chosen by what "
            "the model computes, others in every image"
        )
    return tokens


def _alike(tokens: Tensor) -> bool:
    """Whether the rows of a batch are the same tokens."""
    return bool((tokens == tokens[:1]).all())


def of_images(tokens: Tensor, images: int) -> Tensor:
    """Windows [n, T], in which each image has its own learned tokens."""
    if images == 1:
        return tokens
    return torch.stack([before_image(row, n * images // len(tokens)) for n, row in enumerate(tokens)])


def stream_of(place: Place, queries: list[Tensor], state: Tensor | None, images: int, samples: int) -> Tensor:
    """The tokens of the residual state, in its order; each must be a query of one window."""
    asking = torch.cat([tokens.flatten() for tokens in queries])
    if state is None or (len(queries) == len(queries[0]) == 1 and state.shape[-1:] == asking.shape):
        return asking
    rows = of_one_sample(state, samples)
    if rows is None:
        raise Doubt(f"{place}: the state to which its result is added is of other tokens in every sample")
    stream = (of_images(rows, images) if images > 1 else rows).flatten()
    if not torch.equal(stream.sort().values, asking[asking != 0].sort().values):
        raise Doubt(
            f"{place}: its {len(asking)} queries, of all its windows, are not the {len(stream)} tokens of the state to which "
            "its result is added, each once"
        )
    return stream


def of_one_sample(tokens: Tensor, samples: int) -> Tensor | None:
    """[images, T] of a state [B images, ..., T]; None if samples differ."""
    flat = tokens.flatten(1) if tokens.dim() > 1 else tokens[None]
    if len(flat) % samples:
        return flat[:1] if _alike(flat) else None
    return flat[: len(flat) // samples] if _alike(flat.unflatten(0, (samples, -1))) else None


def check_apart(place: Place, which: str, tokens: Tensor) -> None:
    of_inputs = [token for token in tokens.tolist() if token >> 48 >= GIVEN]  # a parameter may stand in several places
    if (tokens == 0).sum() > 1 or len(set(of_inputs)) != len(of_inputs):
        raise Doubt(
            f"{place}: its {which} cannot be told from each other, as they come from no argument or parameter of their own"
        )


def check_moves(place: Place, own: Value, state: Value | None, samples: int, images: int) -> None:
    """Raises Doubt unless results of windows are added to the tokens whose queries they are of."""
    if state is None or own.tokens is None or state.tokens is None:
        return
    added, tokens = (of_one_sample(value.tokens, samples) for value in (own, state) if value.tokens is not None)
    if (
        added is None
        or tokens is None
        or added.numel() != tokens.numel()
        or not torch.equal(added.flatten(), tokens.flatten())
    ):
        raise Doubt(
            f"{place}: the results of its windows are added to other tokens than those whose queries they are of"
        )


def positions_of(tokens: Tensor, stream: Tensor) -> Tensor:
    """Where tokens are in a stream that has each once; -1 for what is no token."""
    ordered, order = stream.sort()
    places = torch.searchsorted(ordered, tokens).clamp(max=len(stream) - 1)
    return order[places].masked_fill(tokens == 0, -1)

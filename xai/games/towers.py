"""Dual encoders: two towers that never read each other, whose features' product is the similarity."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xai.games.game import Game
from xai.recording.axis import index_of
from xai.recording.recording import Recording, Score
from xai.targets import features, similarity

TOLERANCE = 0.01  # by which similarities may lie off the line, in shares of their spread


class Line(NamedTuple):
    """Similarity = scale · product of the features + offset."""

    scale: Tensor
    offset: Tensor


def towers_of(recording: Recording, target: Score) -> tuple[list[str], list[str]] | None:
    """Returns the modalities that are images' and texts' alone; None unless the target is `similarity()` of two towers."""
    if getattr(target, "score", None) is not similarity().score or recording.turns is not None:
        return None
    try:
        features(recording.output)
    except TypeError:
        return None
    image, text = (_read(recording, side) for side in (0, 1))
    if not image or not text or image & text:
        return None
    return [name for name in recording.inputs if name in image], [name for name in recording.inputs if name in text]


def line(products: Float[Tensor, " N"], similarities: Float[Tensor, " N"]) -> Line:
    """Finds scale and offset by which similarities follow from products of features.

    Raises:
        ValueError: they do not, so that pairs are no products; or all are the same.
    """
    products, similarities = products.double(), similarities.double()
    spread = products - products.mean()
    if not spread.any():
        raise ValueError("all products of features are the same, which does not tell their scale; give a longer text")
    scale = (spread * similarities).sum() / spread.square().sum()
    found = Line(scale, similarities.mean() - scale * products.mean())
    apart = (found.scale * products + found.offset - similarities).abs().max()
    if apart > TOLERANCE * (similarities - similarities.mean()).abs().max():
        raise ValueError(
            "the similarity is no product of the features in the model's outputs: explain it by 'interaction', or by 'fixlip' "
            "with within=True, which runs the whole model"
        )
    return found


@torch.no_grad()
def each_with_each(
    game: Game, sample: int, first: Bool[Tensor, "K T"], second: Bool[Tensor, "L T"]
) -> Float[Tensor, "K L"]:
    """Returns the similarity of a sample's image under each of some masks with its text under each of others.

    One run is of an image and a text: there are as many as the larger number.

    Args:
        game: of the similarity.
        sample: which.
        first: tokens that stay, of the image's tower; those of the other are True.
        second: tokens that stay, of the text's tower.
    """
    runs = max(len(first), len(second))
    keep = _filled(first, runs) & _filled(second, runs)
    parts, similarities = [], []
    for some in keep.split(game.at_once):
        outputs = game.run(some, torch.full((len(some),), sample, device=some.device))
        parts.append(features(outputs))
        similarities.append(game.target(outputs))
    game.runs += runs
    image, text = (torch.cat(side).double() for side in zip(*parts, strict=True))
    if not (image.isfinite().all() and text.isfinite().all()):
        raise ValueError(
            "the features are not finite where tokens are taken away; explain pairs by 'exclip' or 'interaction'"
        )
    scale, offset = line((image * text).sum(dim=-1), torch.cat(similarities))
    return scale * image[: len(first)] @ text[: len(second)].mT + offset


def _filled(keep: Bool[Tensor, "K T"], count: int) -> Bool[Tensor, "count T"]:
    return torch.cat([keep, keep.new_ones(count - len(keep), keep.shape[1])])


def _read(recording: Recording, side: int) -> set[str]:
    """Returns the modalities that the features of one side are made from."""
    read = recording.rows_of(lambda outputs: features(outputs)[side].sum(dim=-1))
    found = {name for name, where in recording.modalities.items() if read[:, index_of(where)].any()}
    joined = [_of_event(recording, event.queries) | _of_event(recording, event.keys) for event in recording.events]
    joined += [{name, link.origin} for name, link in recording.links.items()]
    while more := set().union(*(group for group in joined if group & found)) - found:
        found |= more
    return found


def _of_event(recording: Recording, span: slice) -> set[str]:
    places = set(range(span.start, span.stop))
    return {name for name, where in recording.modalities.items() if places & set(index_of(where).tolist())}
